"""What happens around the training loop: speed, checkpoints, a clean stop, the table."""

import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from everytoken.batch import Batch
from everytoken.callbacks import LastCheckpoint, StopOnInterrupt, Throughput, predictions_table
from everytoken.choose import Greedy
from everytoken.collate import filler
from everytoken.console import console
from everytoken.module import Prediction, TokenModule
from everytoken.objective import SpecialIds
from everytoken.schedule import constant
from everytoken.tokenizer import train_char
from helpers import make_batch, make_model

STEPS = 5


def make_module() -> TokenModule:
    return TokenModule(
        model=make_model("decoder"),
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1),
        scheduler=lambda optimizer, total_steps: constant(optimizer, total_steps, 0.0),
        total_steps=STEPS,
        label_smoothing=0.0,
        z_loss=0.0,
        clip_norm=None,
        special=SpecialIds(0, 1, 2, 3, 4),
        decode=str,
        max_new_tokens=None,
        decoding=Greedy(),
        more_metrics={},
    )


def steps() -> list[list[Batch]]:
    """Two micro-batches a step, and a filler in each."""
    return [
        [make_batch([3, 5], seed=i), make_batch([2], seed=i + 100), filler(0, with_source=False)]
        for i in range(STEPS)
    ]


def fit(folder: Path, *callbacks: L.Callback, every: int = 2) -> tuple[L.Trainer, TokenModule]:
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        log_every_n_steps=every,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
    )
    module = make_module()
    trainer.fit(module, DataLoader(steps(), batch_size=None))  # pyright: ignore
    return trainer, module


def test_throughput_counts_every_real_token_once_and_fillers_never(tmp_path: Path):
    measured = Throughput()
    trainer, _ = fit(tmp_path, measured)
    assert measured.total_real == STEPS * (3 + 5 + 2)
    assert measured.total_computed == STEPS * (3 + 5 + 2 + 1)  # the filler's one position is work
    assert measured.total_seconds > 0
    assert trainer.callback_metrics["throughput/fill"] == pytest.approx(10 / 11)
    assert trainer.callback_metrics["real_tokens"] == 4 * (3 + 5 + 2)  # at the last logged step


def test_fill_is_below_one_for_a_model_that_computes_on_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("everytoken.model.Transformer.computes_on_padding", True)
    measured = Throughput()
    fit(tmp_path, measured)
    assert measured.total_real == STEPS * (3 + 5 + 2)
    assert measured.total_computed == STEPS * (2 * 5 + 2 + 1)  # 2 x 5 padded, 1 x 2, a filler of 1


def test_time_for_validation_is_not_training_time(monkeypatch: pytest.MonkeyPatch):
    now = iter([10.0, 11.0, 50.0, 51.5])
    monkeypatch.setattr("everytoken.callbacks.time.perf_counter", lambda: next(now))
    measured = Throughput()
    trainer: Any = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    module = make_module()
    measured.on_train_start(trainer, module)  # 10.0
    measured.on_validation_start(trainer, module)  # 11.0
    measured.on_validation_end(trainer, module)  # 50.0
    measured.on_train_end(trainer, module)  # 51.5
    assert measured.total_seconds == 2.5


@pytest.mark.parametrize("every", [2, 5, 100])
def test_last_checkpoint_holds_the_weights_of_the_last_step(tmp_path: Path, every: int):
    _, module = fit(tmp_path, LastCheckpoint(every_n_steps=every))
    [file] = (tmp_path / "checkpoints").iterdir()
    assert file.name == "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)  # plain containers only
    assert checkpoint["global_step"] == STEPS
    for name, weight in module.state_dict().items():
        assert torch.equal(checkpoint["state_dict"][name], weight)


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """A job in the background may have been started deaf to it, and Lightning leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class PressCtrlC(L.Callback):
    """Sends SIGINT to this process in a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_finishes_the_step_and_gives_the_signal_back(tmp_path: Path):
    before = signal.getsignal(signal.SIGINT)
    stop = StopOnInterrupt()
    trainer, _ = fit(tmp_path, PressCtrlC(2), stop, LastCheckpoint(every_n_steps=100))
    assert stop.signalled == signal.SIGINT
    assert trainer.global_step == 3
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_twice_leaves_at_once(tmp_path: Path):
    with pytest.raises(SystemExit):
        fit(tmp_path, PressCtrlC(2), PressCtrlC(2), StopOnInterrupt())


def test_the_table_shows_texts_and_marks_what_is_wrong():
    tokenizer = train_char(["abc\n"])
    ids = {text: tokenizer.encode([text])[0] for text in ("ab", "abc", "a\nb", "c")}
    right = Prediction(ids["ab"], ids["abc"], ids["abc"])
    wrong = Prediction(ids["a\nb"], ids["abc"], ids["c"])
    table = predictions_table([right, wrong], tokenizer)
    with console.capture() as shown:
        console.print(table)
    assert "a⏎b" in shown.get()
    styles = [str(cell.style) for cell in table.columns[2]._cells]  # pyright: ignore
    assert styles == ["green", "red"]


def test_a_long_text_is_shortened_in_the_table():
    tokenizer = train_char(["x"])
    ids = tokenizer.encode(["x" * 1000])[0]
    with console.capture() as shown:
        console.print(predictions_table([Prediction(ids, ids, ids)], tokenizer))
    assert "…" in shown.get()
    assert shown.get().count("x") < 400
