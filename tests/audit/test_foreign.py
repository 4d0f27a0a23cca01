"""The audit of training code that isn't ours: what is right passes, each fault is named."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from everytoken.audit import Report, audit, prepare
from everytoken.audit.foreign.entrance import CHECKS, run
from everytoken.errors import UserError
from support import prefork
from support.auditing import ONE_PROCESS, foreign_failures
from support.foreign import EOS, Loop, Module, Net, sequences

LIGHTNING = ["accumulation", "evaluation", "two processes", "logged loss"]
LIGHTNING += ["evaluation on processes", "resume"]


def reasons(report: Report) -> dict[str, str]:
    return {r.check.name: r.finding.note for r in report.results if not r.finding.applies}


# A bare loop


def test_a_right_loop_passes_and_what_cant_be_asked_says_why():
    loop = Loop()
    report = audit(loop.step, **loop.given)
    assert report.passed, str(report)
    assert {*reasons(report)} == {
        *("epoch", "documents", "loss", "label smoothing", "clipping"),
        *("evaluation on processes", "resume"),
    }


@pytest.mark.parametrize(
    ("fault", "first"),
    [
        ("dropout stays on", "repeatable"),
        ("long sequences are cut off", "collation"),
        ("the end isn't learned", "end of sequence"),
        ("a prompt token is learned", "learned part"),
        ("a first answer token isn't", "learned part"),
        ("padding counts", "padding length"),
        ("padding is learned", "padding length"),
        ("padding is attended to", "padding length"),
        ("targets aren't shifted", "targets hidden"),
        ("targets are shifted twice", "targets hidden"),
        ("the causal mask is off by one", "targets hidden"),
        ("queries know the length", "causality"),
        ("rows are mixed", "isolation"),
        ("a layer is never used", "parameters"),
        ("nothing is finite in bfloat16", "precision"),
        ("every sequence weighs the same", "step"),
        ("a mean per micro-batch", "accumulation"),
        ("a mean of batches' means", "evaluation"),
        ("a mean per rank", "two processes"),
        ("the last loss is logged", "logged loss"),
        ("one rank's loss is logged", "logged loss"),
    ],
)
def test_a_fault_of_a_loop_is_named(fault: str, first: str):
    loop = Loop(fault)
    given = loop.given
    if fault == "targets aren't shifted" or "twice" in fault:
        given.pop("fields")  # its answers begin elsewhere then
    assert foreign_failures(prepare(loop.step, **given), first) == [first]


def test_ready_batches_and_a_loss_with_its_model_will_do():
    loop = Loop()
    batches = [loop.collate(sequences(8, seed)) for seed in range(2)]
    report = audit(lambda batch: (loop.step(batch), loop.model), batches=batches, eos_id=EOS)
    assert report.failures == ["accumulation", "two processes"]


def test_a_loop_is_left_as_it_was():
    loop = Loop()
    loop.model.train()
    loop.model.head.requires_grad_(False)
    loop.step(loop.collate(loop.examples[:3])).backward()
    before = state(loop.model)
    audit(loop.step, **loop.given)
    assert_same(before, state(loop.model))
    assert loop.examples == sequences()


def state(model: nn.Module) -> dict[str, Any]:
    """All that an audit could change."""
    return {
        **{f"weight {name}": value.clone() for name, value in model.state_dict().items()},
        **{f"gradient {n}": p.grad is not None and p.grad.clone() for n, p in _named(model)},
        **{f"trained {n}": p.requires_grad for n, p in _named(model)},
        **{f"storage {n}": p.data_ptr() for n, p in _named(model)},
        **{f"mode {name}": part.training for name, part in model.named_modules()},
        **{f"names {name}": sorted(vars(part)) for name, part in model.named_modules()},
        "torch": torch.get_rng_state(),
        "random": random.getstate(),
        "numpy": str(np.random.get_state()),
        "threads": torch.get_num_threads(),
    }


def _named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [*model.named_parameters()]


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for name, value in before.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, after[name]), name
        else:
            assert np.array_equal(value, after[name]) or value == after[name], name


def test_layers_are_cut_and_put_back():
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(40, 8)
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(5))
            self.head = nn.Linear(8, 40)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            seen.append(len(self.layers))
            hidden = self.words(batch["input_ids"])
            for layer in self.layers:
                hidden = layer(hidden)
            return nn.functional.cross_entropy(self.head(hidden).mT, batch["labels"])

    seen: list[int] = []
    data: dict[str, Any] = {"batches": sequences(), "collate": Loop().collate}
    model = Deep()
    before = state(model)
    door = prepare(model.forward, **data, model=model, layers=2)
    run(door, ONE_PROCESS[:5])
    assert set(seen) == {2}
    assert len(model.layers) == 5
    assert_same(before, state(model))


# Lightning


def test_lightning_as_documented_fails_where_it_cuts():
    module = Module()
    before = state(module)
    assert audit(module, **module.loaders()).failures == LIGHTNING
    assert_same(before, state(module))


@pytest.mark.parametrize(
    ("fault", "first"),
    [
        ("padding is learned", "padding length"),
        ("the causal mask is off by one", "targets hidden"),
        ("rows are mixed", "isolation"),
        ("the optimizer has a part", "parameters"),
        ("every sequence weighs the same", "step"),
    ],
)
def test_a_fault_of_a_lightning_module_is_named(fault: str, first: str):
    module = Module(fault)
    assert foreign_failures(prepare(module, **module.loaders()), first) == [first]


# From a shell


@pytest.mark.slow
def test_a_function_is_audited_from_a_shell(tmp_path: Path):
    env = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = prefork.run(tmp_path, "-m", "audit", "target=support.foreign:make", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all checks pass; audit.json has it all" in done.stdout
    assert json.loads((tmp_path / "audit.json").read_text())["passed"]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["target=nowhere:make"], "No module named 'nowhere'"),
        (["target=support.foreign"], "target=package.module:make"),
        (["target=support.foreign:nothing"], "has no function nothing"),
        (["target=support.foreign:sequences"], "a list can't be audited"),
        (["target=support.foreign:make", "model=tiny"], "model=tiny is not for target="),
        (["target=support.foreign:make", "layers=two"], "layers=two can't be read"),
        (["target=support.foreign:make", "layers=0"], "layers=0: leave 1 or more"),
        (["target=support.foreign:make", "precision=fp8"], "give bf16 or fp16"),
        (["target=support.foreign:make", "causal=maybe"], "give true or false"),
        (["target=support.foreign:make", "out=no/where.json"], "there is no folder no"),
        (["target=support.foreign:make", "target=x:y"], "target is given twice"),
        (["target=support/foreign.py:make"], "give the module, as target="),
        (["target=support.foreign:raises"], "corpus.txt (tests/support/foreign.py"),
    ],
)
def test_what_cant_be_audited_is_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
):
    from everytoken.entry.audit import audit_target

    assert audit_target(words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.bad_input
def test_what_is_missing_is_asked_for():
    module, loop = Module(), Loop()
    for give, what, given in (
        ("datamodule", module, {}),
        ("batches", loop.step, {}),
        ("model", loop.step, {"batches": loop.examples, "collate": loop.collate}),
        ("LightningModule", Net, {}),
    ):
        with pytest.raises(UserError, match=give):
            prepare(what, **given)


def test_a_report_can_be_saved(tmp_path: Path):
    loop = Loop("a layer is never used")
    report = run(prepare(loop.step, **loop.given), [c for c in CHECKS if c.name == "parameters"])
    report.save(tmp_path / "audit.json")
    found = json.loads((tmp_path / "audit.json").read_text())
    assert not found["passed"]
    assert found["checks"][0]["check"] == "parameters"
    assert "idle.weight" in str(report)
