"""A step doesn't ask its device for anything, but for one thing: whether the gradient is finite."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import SGD, AdamW

from everytoken.callbacks.machine import MachineUse
from everytoken.callbacks.nonfinite import NonFiniteSteps
from everytoken.callbacks.throughput import Throughput
from everytoken.training import linear_cross_entropy
from everytoken.training.module import TokenModule
from everytoken.training.muon import Muon
from support.helpers import make_model
from support.invariant_jobs import TASKS, make_data, make_module, make_trainer, random_examples
from support.watching import Watch

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]

OPTIMIZERS: dict[str, Any] = {
    "adamw": partial(AdamW, lr=1e-3, fused=True),
    "sgd": partial(SGD, lr=1e-3, fused=True),
    "muon": partial(
        Muon,
        **{"lr": 1e-3, "weight_decay": 0.01, "momentum": 0.95, "nesterov": True, "ns_steps": 5},
        **{"adjust_lr_fn": "match_rms_adamw", "betas": (0.9, 0.98), "eps": 1e-9, "fused": True},
    ),
}
THE_ONE = "_local_scalar_dense in module.on_before_optimizer_step"
STEPS, FIRST = 4, 2


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU may be asked at once."""
    monkeypatch.setattr(linear_cross_entropy, "_is_on_cpu", lambda _: False)


class Watching(L.Callback):
    """Watches whole steps, other callbacks' part included, from the second on."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step >= FIRST:
            self.watch.start()


class Ending(Watching):
    """The end of a step: the last of the callbacks."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        pass

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step > FIRST:
            self.watch.stop()


def watched(tmp_path: Path, task: str, optimizer: str = "adamw", **sizes: Any) -> list[str]:
    """What is read in the last steps of a short training, of several micro-batches each."""
    data = make_data(task, {"train": random_examples(96, seed=0)}, limit=300)
    sizes = {"attention": "padded", "dropout": 0.1} | dict(TASKS[task].sizes) | sizes
    model = make_model(TASKS[task].shape, **sizes)
    module = make_module(*(task, data), model=model, optimizer=OPTIMIZERS[optimizer], clip_norm=1.0)
    watch = Watch()
    used = (Throughput(), MachineUse(0.001), NonFiniteSteps(tmp_path, 0))
    trainer = make_trainer(
        *(1, Watching(watch), *used, Ending(watch)), steps=STEPS, log_every_n_steps=100
    )
    trainer.fit(module, datamodule=data)
    return watch.found


@pytest.mark.parametrize("task", TASKS)
def test_a_step_reads_once(tmp_path: Path, task: str):
    assert watched(tmp_path, task) == [THE_ONE] * (STEPS - FIRST)


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("causal_lm", {"optimizer": "sgd"}),
        ("causal_lm", {"optimizer": "muon"}),
        ("masked_lm", {"window": 3}),
        ("prefix_lm", {"window": 3}),
        ("seq2seq", {"window": 3, "checkpoint_activations": True}),
    ],
)
def test_nor_do_other_ways_to_compute_it(tmp_path: Path, task: str, settings: dict[str, Any]):
    assert watched(tmp_path, task, **settings) == [THE_ONE] * (STEPS - FIRST)


@pytest.mark.parametrize(
    "ask",
    [
        lambda loss, hits: loss.item(),
        lambda loss, hits: bool(loss > 0),
        lambda loss, hits: f"{float(loss):.3f}",
        lambda loss, hits: loss.tolist(),
        lambda loss, hits: loss.cpu(),
        lambda loss, hits: loss.to("cpu"),
        lambda loss, hits: np.asarray(loss),
        lambda loss, hits: hits.nonzero(),
        lambda loss, hits: hits[hits > 0],
        lambda loss, hits: hits.unique(),
        lambda loss, hits: hits.repeat_interleave(hits),
    ],
)
def test_what_asks_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Any):
    sums = TokenModule.training_sums

    def asking(self: TokenModule, batch: Any) -> Any:
        found = sums(self, batch)
        ask(found.loss.detach(), found.correct[None])
        return found

    monkeypatch.setattr(TokenModule, "training_sums", asking)
    found = watched(tmp_path, "causal_lm")
    assert [one for one in found if "test_waiting" in one]


def test_a_batch_goes_to_the_device_in_the_background(monkeypatch: pytest.MonkeyPatch):
    data = make_data("seq2seq", {"train": random_examples(8, seed=0)})
    batch = next(iter(data.train_dataloader()))[0]
    calls: list[bool] = []
    monkeypatch.setattr(
        Tensor, "to", lambda self, device, non_blocking: calls.append(non_blocking) or self
    )
    batch.to("cuda")
    tensors = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    assert calls == [True] * len(tensors) != []
    calls.clear()
    batch.to(torch.device("cpu"))
    assert not any(calls)
