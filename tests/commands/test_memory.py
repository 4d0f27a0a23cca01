"""Memory that is short is told in one line: what was at work, and which setting needs less."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from everytoken.batch import Batch
from everytoken.commands.memory import (
    explained,
    fewer_lines,
    fewer_tokens,
    is_out_of_memory,
    levers,
)
from everytoken.errors import UserError
from support import nonfinite_jobs as jobs
from support import prefork
from support.fitting import make_module
from support.helpers import make_batch
from support.nonfinite_jobs import Bigrams

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]

TOO_MUCH = 2**50
CFG = OmegaConf.create(
    {
        "model": {"checkpoint_activations": False},
        "precision": {"mode": "32-true"},
        "trainer": {"strategy": "auto"},
    }
)


def on_the_cpu() -> object:
    return torch.empty(TOO_MUCH, dtype=torch.uint8)


def in_numpy() -> object:
    return np.ones(TOO_MUCH, dtype=np.uint8)


def in_python() -> object:
    return bytearray(TOO_MUCH)


def on_a_gpu() -> object:
    """What torch says; there is none here."""
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB "
        "of which 1.02 GiB is free. Including non-PyTorch memory, this process has 78.07 GiB …"
    )


class Greedy(Bigrams):
    """Wants memory in some micro-batches."""

    def __init__(self, ask: Callable[[], object], longer_than: int = 0) -> None:
        super().__init__()
        self.ask = ask
        self.longer_than = longer_than

    def forward(self, batch: Batch) -> Tensor:
        if batch.input_ids.shape[1] > self.longer_than:
            self.ask()
        return super().forward(batch)


def told(model: nn.Module, steps: list[list[Batch]], folder: Path, tokens: int = 20) -> str:
    """What training says."""
    module = make_module()
    module.model = model
    trainer = jobs.make_trainer(folder, len(steps))
    with pytest.raises(UserError) as error, explained(module, fewer_tokens(tokens, place=""), CFG):
        trainer.fit(module, jobs.loader(steps))
    return str(error.value)


@pytest.mark.parametrize(
    ("ask", "amount"),
    [
        (on_the_cpu, " (asked for 1125899906842624 bytes more)"),
        (in_numpy, " (asked for 1.00 PiB more)"),
        (in_python, ""),
        (on_a_gpu, " (asked for 2.50 GiB more)"),
    ],
)
def test_the_micro_batch_and_the_setting_are_named(
    tmp_path: Path, ask: Callable[[], object], amount: str
):
    batches = [make_batch([2, 3]), make_batch([6, 7, 5])]
    assert told(Greedy(ask, longer_than=3), [batches], tmp_path) == (
        f"out of memory on the CPU{amount} in a micro-batch, "
        f"{batches[1]}: set data.microbatch_tokens=9 (it is 20), which never changes the result"
    )
    assert "18 real tokens" in repr(batches[1])


def test_an_example_that_does_not_fit_alone_is_told_so(tmp_path: Path):
    line = told(Greedy(on_the_cpu), [[make_batch([9])]], tmp_path)
    assert "even one example doesn't fit, so use model.checkpoint_activations=true, or " in line
    assert "microbatch_tokens" not in line


@pytest.mark.parametrize(
    ("key", "value", "gone"),
    [
        ("model.checkpoint_activations", True, "model.checkpoint_activations=true"),
        ("model", {}, "model.checkpoint_activations=true"),  # one's own has no such argument
        ("precision.mode", "bf16-mixed", "precision=bf16"),
        ("trainer.strategy", "fsdp", "trainer=fsdp on several GPUs"),
    ],
)
def test_what_is_set_already_is_no_lever(key: str, value: object, gone: str):
    cfg = CFG.copy()
    OmegaConf.update(cfg, key, value, merge=False)
    before, found = (levers(each, trains=True, batch=True) for each in (CFG, cfg))
    assert found == [way for way in before if way != gone] != before


def test_what_saves_activations_is_no_lever_for_weights():
    assert levers(CFG, trains=True, batch=False) == [
        *("trainer=fsdp on several GPUs", "a smaller model (model.*)")
    ]
    assert "precision=bf16" in levers(CFG, trains=False, batch=True)
    assert "model.checkpoint_activations=true" not in levers(CFG, trains=False, batch=True)


def test_the_optimizer_has_no_micro_batch(tmp_path: Path):
    class Large(torch.optim.SGD):
        def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
            if any(p.numel() > 4**p.ndim for group in self.param_groups for p in group["params"]):
                on_the_cpu()  # not in the rehearsal, whose parameters are small

    module = make_module()
    module.make_optimizer = lambda groups: Large(groups, lr=0.1)
    trainer = jobs.make_trainer(tmp_path, 1)
    wanted = (
        r"for weights, gradients or the optimizer: use trainer=fsdp on several GPUs or a smaller"
    )
    with pytest.raises(UserError, match=wanted), explained(module, fewer_tokens(9, place=""), CFG):
        trainer.fit(module, jobs.loader([[make_batch([3, 4])]]))


def test_evaluation_and_generation_have_their_own_settings(tmp_path: Path):
    module = make_module()
    module.model = Greedy(on_the_cpu)
    trainer = jobs.make_trainer(tmp_path, 1)
    advice = fewer_tokens(40, " in RUN/config.yaml")
    wanted = r"set data.microbatch_tokens=5 in RUN/config\.yaml \(it is 40\)"
    with pytest.raises(UserError, match=wanted), explained(module, advice, CFG):
        trainer.validate(module, jobs.loader([make_batch([6, 5])]), verbose=False)  # pyright: ignore
    wanted = r"set batch_size=16 \(it is 32\)"
    with pytest.raises(UserError, match=wanted), explained(module, fewer_lines(32), CFG):
        module.generate(make_batch([6, 5]), 3)


def test_other_errors_pass():
    def wrong_shape() -> None:
        torch.dot(torch.ones(2), torch.ones(3))

    with (
        pytest.raises(RuntimeError, match="size") as error,
        explained(make_module(), fewer_lines(2), CFG),
    ):
        wrong_shape()
    assert not is_out_of_memory(error.value)


@pytest.mark.slow
def test_a_run_that_finds_no_memory_ends_in_one_line(tmp_path: Path):
    """The limit leaves room to start, and none for all activations of 1,000 examples at once."""
    words = ["logger=none", "data.corpus.train_examples=1000", "data.batch_size=1000"]
    words += ["data.corpus.val_examples=20", "data.corpus.test_examples=20"]
    words += ["data.microbatch_tokens=200000", "hydra.run.dir=run"]

    code = """
import resource, runpy, sys
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**29
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
runpy.run_module("train", run_name="__main__", alter_sys=True)
"""
    done = prefork.run(tmp_path, "-c", code, *words)
    assert done.returncode == 2, done.stderr
    assert re.match(
        r"error: out of memory on the CPU \(asked for \d+ bytes more\) in a micro-batch, "
        r"Batch\(.* real tokens.*\): set data\.microbatch_tokens=\d+ \(it is 200000\), which",
        done.stderr.splitlines()[-1],
    )
