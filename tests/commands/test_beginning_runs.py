"""Whole runs that begin with weights that exist, and leave some of them alone."""

import json
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everytoken.audit.results import run_checks
from everytoken.audit.subject import Subject
from everytoken.run.directory import Run
from everytoken.run.origin import Origin
from support.auditing import IN_PROCESS, failures
from support.finished_runs import config
from support.helpers import assert_refused, run, run_here
from support.small_runs import SMALL

pytestmark = pytest.mark.slow

FROZEN = ("embedding", "encoder.blocks.0", "head")
NEW = ["init_from=source", "freeze=[embedding,encoder.blocks.0]", "scheduler=constant"]
NEW += ["model.checkpoint_activations=true", "callbacks.report=null", "task.max_new_tokens=null"]


def train(folder: Path, name: str, *words: str, several: bool = False) -> str:
    start = run if several else run_here
    done = start(folder, "train", *SMALL, f"hydra.run.dir={name}", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def checkpoint(path: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(path / "checkpoints" / f"{name}.ckpt", weights_only=True)


def weights(path: Path, name: str = "last") -> dict[str, Tensor]:
    found = checkpoint(path, name)["state_dict"]
    return {name.removeprefix("model."): weight for name, weight in found.items()}


def is_frozen(name: str) -> bool:
    return any(name.startswith(f"{part}.") for part in FROZEN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a finished run, `source`."""
    path = tmp_path_factory.mktemp("runs")
    train(path, "source", "callbacks.report=null", "task.max_new_tokens=null")
    return path


def test_a_run_goes_on_bit_for_bit_without_the_one_that_it_began_with(folder: Path, tmp_path: Path):
    shutil.copytree(folder / "source", tmp_path / "source")
    words = [*NEW, "model.dropout=0.1", "model.token_dropout=0.1", "callbacks=ema"]
    told = train(tmp_path, "whole", *words)
    assert "with the weights of step 6 of source/checkpoints/best.ckpt and its tokenizer" in told
    assert "(resume=source would go on with it)" in told
    assert "parameters (34,624 trained)" in told
    train(tmp_path, "cut", *words, "trainer.max_steps=3")
    record = json.loads((tmp_path / "cut" / "run.json").read_text())["init_from"]
    assert record["path"] == str(tmp_path / "source" / "checkpoints" / "best.ckpt")
    began = weights(tmp_path / "source", "best")
    shutil.rmtree(tmp_path / "source")
    done = run_here(tmp_path, "train", "resume=cut", "trainer.max_steps=6")
    assert done.returncode == 0, done.stderr
    cut, whole = checkpoint(tmp_path / "cut"), checkpoint(tmp_path / "whole")
    assert (cut["global_step"], whole["global_step"]) == (6, 6)
    for part in ("state_dict", "current_model_state"):
        assert cut[part].keys() == whole[part].keys()
        for name, weight in whole[part].items():
            assert torch.equal(weight, cut[part][name]), name
            before = began[name.removeprefix("model.")]
            assert torch.equal(weight, before) is is_frozen(name.removeprefix("model.")), name
    kept = whole["optimizer_states"][0]["state"]
    assert len(kept) == sum(not is_frozen(name) for name in began)
    refused = run_here(tmp_path, "train", "resume=cut", "freeze=[embedding]")
    assert_refused(refused, "freeze=[embedding,encoder.blocks.0]", "init_from=cut")
    refused = run_here(tmp_path, "train", "resume=cut", "init_from=whole")
    assert_refused(refused, "init_from=whole begins a new run", "resume=cut goes on with one")


ADAPTED = [*(word for word in NEW if not word.startswith("freeze")), "adapter=lora"]
ADAPTED += ["adapter.dropout=0.1", "model.dropout=0.1"]


@pytest.mark.parametrize("more", [["callbacks=ema"], ["precision=bf16"]])
def test_an_adapter_goes_on_bit_for_bit_and_is_all_that_is_kept(folder: Path, more: list[str]):
    name = f"lora-{more[0].partition('=')[2]}"
    train(folder, name, *ADAPTED, *more)
    train(folder, f"{name}-cut", *ADAPTED, *more, "trainer.max_steps=3")
    done = run_here(folder, "train", f"resume={name}-cut", "trainer.max_steps=6")
    assert done.returncode == 0, done.stderr
    assert "with the weights of step" not in done.stdout
    whole, cut = checkpoint(folder / name), checkpoint(folder / f"{name}-cut")
    for part in ("state_dict", *(["current_model_state"] if "callbacks=ema" in more else [])):
        assert all(".lora_" in name for name in whole[part])
        assert whole[part].keys() == cut[part].keys()
        assert all(torch.equal(weight, cut[part][name]) for name, weight in whole[part].items())
    assert len(whole["optimizer_states"][0]["state"]) == len(whole["state_dict"])
    expected = json.loads((folder / name / "summary.json").read_text())["val/loss"]
    for words in (["checkpoint=best"], ["checkpoint=raw-best"] if "callbacks=ema" in more else []):
        done = run_here(folder, "eval", f"run={name}", "split=val", "trainer=cpu", *words)
        assert done.returncode == 0, done.stderr
    found = json.loads((folder / name / "eval-val-best.json").read_text())["val/loss"]
    assert found == pytest.approx(expected, rel=1e-6)
    refused = run_here(folder, "train", f"resume={name}", "adapter.rank=4", "trainer.max_steps=9")
    assert_refused(refused, "has adapter.rank=8, and can't go on with 4")


@pytest.mark.parametrize("trainer", ["ddp_cpu", "fsdp"])
def test_two_processes_train_the_adapter_that_one_does_and_go_on(folder: Path, trainer: str):
    words = [*ADAPTED[:-2], "adapter.rank=4"]
    if not (folder / "one-lora").exists():
        train(folder, "one-lora", *words)
    machine = [f"trainer={trainer}", "trainer.accelerator=cpu", "trainer.devices=2"]
    name = f"{trainer}-lora"
    train(folder, name, *words, *machine, "trainer.max_steps=3", several=True)
    done = run(folder, "train", f"resume={name}", "trainer.max_steps=6")
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (weights(folder / path) for path in ("one-lora", name))
    assert one.keys() == two.keys()
    assert all(".lora_" in name for name in one)
    for name, weight in one.items():
        torch.testing.assert_close(weight, two[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("words", [NEW, ADAPTED])
def test_the_audit_passes_with_frozen_parts_and_with_an_adapter(folder: Path, words: list[str]):
    with chdir(folder):
        cfg = config(*SMALL, *words)
        record = {"init_from": Origin.find("source").record()}
        audited = Run.create(folder / f"audit-{len(words)}", cfg, record)
        subject = Subject(audited)
        assert failures(run_checks(subject, IN_PROCESS)) == {}
    named = dict(subject.model.named_parameters())
    trained = {name for name, weight in named.items() if weight.requires_grad}
    assert subject.whole_step.gradients.keys() == trained < named.keys()


@pytest.mark.parametrize("trainer", ["ddp_cpu", "fsdp"])
def test_two_processes_train_what_one_does(folder: Path, trainer: str):
    if not (folder / "one").exists():
        train(folder, "one", *NEW, "trainer.max_steps=3")
    machine = [f"trainer={trainer}", "trainer.accelerator=cpu", "trainer.devices=2"]
    train(folder, trainer, *NEW, *machine, "trainer.max_steps=3", several=True)
    one, two, began = (weights(folder / name) for name in ("one", trainer, "source"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        assert torch.equal(began[name], two[name]) is is_frozen(name), name
        torch.testing.assert_close(weight, two[name], rtol=1e-4, atol=1e-5)
