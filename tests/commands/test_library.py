"""The engine from Python: a run loaded, parts built, a plain trainer."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

import everytoken
from everytoken.data.datamodule import TokenDataModule
from everytoken.errors import UserError
from everytoken.runtime.launch import free_port
from support import prefork
from support.helpers import run_here
from support.readmes import ROOT
from support.small_runs import SMALL

PARTS = (
    *("model.layers=1", "model.width=16", "model.heads=2", "model.ffn_width=16"),
    *("data.limit_examples=50", "data.batch_size=8", "task.max_new_tokens=4"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with what `eval` and `generate` make of it."""
    folder = tmp_path_factory.mktemp("library") / "a run"
    assert run_here(folder.parent, "train", *SMALL, f"hydra.run.dir={folder}").returncode == 0
    assert run_here(folder.parent, "eval", f"run={folder}").returncode == 0
    return folder


def plain(callbacks: list[L.Callback] | None = None, **settings: Any) -> L.Trainer:
    usual = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    usual |= {"enable_model_summary": False, "enable_checkpointing": bool(callbacks)}
    return L.Trainer(**usual | settings, callbacks=callbacks or [])


class Seen(L.Callback):
    """Which examples each epoch of the trainer had."""

    def __init__(self) -> None:
        self.epochs: dict[int, list[int]] = {}

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        micro_batches = args[1]
        seen = self.epochs.setdefault(trainer.current_epoch, [])
        seen += [i for batch in micro_batches for i in batch.indices.tolist()]


# A finished run


def test_a_loaded_run_answers_and_evaluates_as_the_commands_do(run: Path) -> None:
    loaded = everytoken.load(run)
    texts = ["21 juin 2001", "", "7 February 1998"]
    (run.parent / "in.txt").write_text("".join(f"{text}\n" for text in texts))
    commanded = run_here(run.parent, "generate", f"run={run}", "input=in.txt", "output=out.txt")
    assert commanded.returncode == 0, commanded.stderr
    assert loaded.generate(texts) == (run.parent / "out.txt").read_text().splitlines()
    assert loaded.generate(texts[0]) == [loaded.generate(texts)[0]]
    written = json.loads((run / "eval-test-best.json").read_text())
    assert (
        loaded.evaluate("test").items()
        >= {k: v for k, v in written.items() if isinstance(v, float)}.items()
    )
    assert not loaded.module.training
    assert loaded.model is loaded.module.model


@pytest.mark.bad_input
def test_what_cant_be_loaded_is_said_in_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run directory"):
        everytoken.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="checkpoint"):
        everytoken.load(run, checkpoint="worst")


# Parts of a new one


@pytest.mark.parametrize("budget", ["data.batch_size=8", "data.batch_tokens=150"])
def test_a_plain_trainer_takes_each_example_once_an_epoch_and_ends(budget: str) -> None:
    other = "data.batch_size=null" if "tokens" in budget else "data.batch_tokens=null"
    parts = everytoken.build(*PARTS, other, budget)
    seen = Seen()
    plain([seen], max_epochs=2, enable_checkpointing=False).fit(parts.module, parts.data)
    assert {epoch: sorted(found) for epoch, found in seen.epochs.items()} == {
        0: [*range(50)],
        1: [*range(50)],
    }
    assert seen.epochs[0] != seen.epochs[1]


@pytest.mark.parametrize("stopped", [{"max_epochs": 1}, {"max_steps": 3}, {"max_steps": 9}])
def test_a_plain_trainer_resumes_bit_for_bit(stopped: dict[str, int], tmp_path: Path) -> None:
    def fit(limit: dict[str, int], checkpoint: Path | None = None) -> dict[str, torch.Tensor]:
        L.seed_everything(1, verbose=False)
        parts = everytoken.build(*PARTS)
        saving = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
        plain([saving], **limit).fit(parts.module, parts.data, ckpt_path=checkpoint)
        return parts.module.state_dict()

    whole = fit({"max_epochs": 2})
    fit(stopped)
    resumed = fit({"max_epochs": 2}, tmp_path / "last.ckpt")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


SPREAD = """
import lightning as L
import everytoken

L.seed_everything(1, verbose=False)
parts = everytoken.build(*{parts})
trainer = L.Trainer(
    max_epochs=1, accelerator="cpu", devices=2, strategy="ddp", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(parts.module, parts.data)
found = trainer.test(parts.module, parts.data, verbose=False)[0]
if trainer.is_global_zero:
    print("found", found["test/loss"], trainer.global_step)
"""


@pytest.mark.slow
def test_lightnings_own_sampler_doesnt_deal_out_a_second_time(tmp_path: Path) -> None:
    L.seed_everything(1, verbose=False)
    parts = everytoken.build(*PARTS)
    trainer = plain(max_epochs=1)
    trainer.fit(parts.module, parts.data)
    [alone] = trainer.test(parts.module, parts.data, verbose=False)
    file = tmp_path / "spread.py"
    file.write_text(SPREAD.format(parts=PARTS))
    # What Lightning starts when it is given a script: the script again, told which rank it is.
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    env |= {"NODE_RANK": "0", "WORLD_SIZE": "2"}
    ranks = [
        prefork.Process("-W", "ignore", str(file), folder=tmp_path, env=env | {"LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    printed = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], printed
    found = re.search(r"found (\S+) (\d+)", printed[0][0])
    assert found, printed
    assert float(found[1]) == pytest.approx(alone["test/loss"], rel=1e-5)
    assert int(found[2]) == trainer.global_step


def test_a_loader_of_ones_own_gives_a_step_a_batch() -> None:
    parts = everytoken.build(*PARTS)
    train = parts.data.splits["train"]
    examples = [train.example(i) for i in range(16)]
    loader = DataLoader(
        cast(Dataset, examples), batch_size=4, collate_fn=lambda rows: everytoken.collate(rows, 0)
    )
    trainer = plain(max_epochs=1, limit_val_batches=0)
    trainer.fit(parts.module, loader)
    assert trainer.global_step == 4


@pytest.mark.bad_input
def test_a_loader_of_something_else_is_refused_by_name() -> None:
    parts = everytoken.build(*PARTS)
    loader = DataLoader(cast(Dataset, [{"input_ids": torch.ones(3)}]))
    with pytest.raises(UserError, match="gave a dict: collate makes a Batch"):
        plain(max_epochs=1).fit(parts.module, loader)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("modle=small", "modle"),
        ("model=smal", "smal"),
        ("model.layers=0", "model.layers must"),
        ("data.batch_tokens=5", "exactly one"),
        ("+nothing.reads=this", "nothing"),
    ],
)
def test_overrides_are_checked_as_on_the_command_line(override: str, answer: str) -> None:
    with pytest.raises(UserError, match=answer) as refused:
        everytoken.build(override)
    assert "\n" not in str(refused.value)


@pytest.mark.bad_input
def test_data_without_any_tokenizer_is_refused() -> None:
    parts = everytoken.build(*PARTS)
    with pytest.raises(ValueError, match="train_tokenizer"):
        TokenDataModule(
            source=None,  # pyright: ignore[reportArgumentType]
            fields=["text"],
            make_objective=None,  # pyright: ignore[reportArgumentType]
            batching=parts.data.batching,
        )


# Names


def test_dir_lists_the_public_names_and_each_is_there() -> None:
    code = "import everytoken, sys; print(*dir(everytoken)); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    names = listed.stdout.split()
    assert {"load", "build", "collate", "Batch", "TokenDataModule", "__version__"} <= {*names}
    assert all(getattr(everytoken, name) is not None for name in names)
    assert callable(everytoken.collate)
    assert callable(everytoken.load)
    assert re.fullmatch(r"\d+\.\d+\.\d+", everytoken.__version__)


def test_each_line_of_the_readme_works(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "src" / "everytoken" / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    (run.parent / "RUN").symlink_to(run)
    monkeypatch.chdir(run.parent)
    known: dict[str, Any] = {}
    for line in "".join(blocks).splitlines():
        exec(line, known)  # one by one: each stands for itself
    assert known["batch"].real_count == 8
    named = set(re.findall(r"`(\w+)`", text[text.index("| name |") :]))
    assert named >= {*dir(everytoken)} - {"__version__"}
