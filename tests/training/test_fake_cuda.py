"""A step and generation on CUDA without a GPU: tensors without values say device, dtype and shape.

What mixes devices, or reads a value on the host, fails. Backward needs a driver: gradients are put
where it would put them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import lightning as L
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.optim import SGD, AdamW

from everytoken.batch import Batch
from everytoken.callbacks.flops import batch_flops
from everytoken.decoding import continuation
from everytoken.decoding.sampling import Sampling
from everytoken.model.backends import Backend, select_backend
from everytoken.model.transformer import Shape
from everytoken.tokenizer.special import SpecialIds
from everytoken.training import module as step
from everytoken.training.distributed import clip_gradients
from everytoken.training.module import TokenModule
from everytoken.training.muon import Muon
from everytoken.training.schedule import constant
from support.helpers import VOCABULARY, make_batch, make_model
from support.invariant_jobs import make_trainer

pytestmark = pytest.mark.skipif(
    torch.version.cuda is None, reason="needs a CUDA build of torch (no GPU)"
)

CUDA = torch.device("cuda", 0)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHAPES: tuple[Shape, ...] = ("encoder_decoder", "decoder", "encoder")
BATCHES = {shape: make_batch([3, 7, 5], with_source=shape == "encoder_decoder") for shape in SHAPES}
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_precision = pytest.mark.parametrize("precision", PRECISIONS)
OPTIMIZERS: dict[str, Any] = {
    "adamw": partial(AdamW, lr=1e-3, fused=True),
    "adamw, as for fp16": partial(AdamW, lr=1e-3, fused=False),
    "sgd": partial(SGD, lr=1e-3, momentum=0.9),
    "muon": partial(
        Muon,
        **{"lr": 1e-3, "weight_decay": 0.01, "momentum": 0.95, "nesterov": True, "ns_steps": 5},
        **{"adjust_lr_fn": "match_rms_adamw", "betas": (0.9, 0.98), "eps": 1e-9, "fused": True},
    ),
}


class Answered:
    """In the place of the gradient's norm: the one value that a step asks the device for."""

    def __init__(self, norm: Tensor) -> None:
        assert norm.device == CUDA
        self.dtype = norm.dtype

    def isfinite(self) -> bool:
        return True


@contextmanager
def on_fake_cuda(precision: str = "fp32") -> Iterator[FakeTensorMode]:
    """New tensors without values, and products in a precision."""
    # torch.autocast leaves it out where there is no GPU.
    torch.set_autocast_enabled("cuda", precision != "fp32")
    torch.set_autocast_dtype("cuda", PRECISIONS[precision])
    # From 2.15 on torch chooses among kernels by what the GPU is: an H100.
    h100 = patch("torch.cuda.get_device_capability", return_value=(9, 0))
    try:
        with h100, FakeTensorMode() as mode:
            yield mode
    finally:
        torch.set_autocast_enabled("cuda", False)


def batch_there(mode: FakeTensorMode, shape: Shape, *, prefix: bool = False) -> Batch:
    """A batch as training takes it to the device; its values were known on the host only."""
    batch = BATCHES[shape]
    if prefix:
        batch = replace(batch, prefix_lengths=batch.lengths)
    tensors = {name: mode.from_tensor(v) for name, v in vars(batch).items() if _is_tensor(v)}
    there = replace(batch, **tensors).to(CUDA)
    assert all(v.device == CUDA for v in vars(there).values() if _is_tensor(v))
    return there


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def make_module(shape: Shape, optimizer: Any = OPTIMIZERS["adamw"], **sizes: Any) -> TokenModule:
    """With weights on the device."""
    with CUDA:
        model = make_model(shape, **sizes)
    return TokenModule(
        model=model,
        optimizer=optimizer,
        scheduler=partial(constant, warmup_fraction=0),
        total_steps=3,
        label_smoothing=0.1,
        z_loss=1e-4,
        clip_norm=1.0,
        special=SpecialIds(0, 1, 2, 3, 4),
        decode=str,
    )


@every_shape
@pytest.mark.parametrize(
    ("precision", "attention"),
    [("fp32", "padded"), *product(("bf16", "fp16"), ("varlen", "padded"))],
)
@pytest.mark.parametrize("window", [None, 2])
def test_forward_and_loss(shape: Shape, precision: str, attention: Backend, window: int | None):
    with on_fake_cuda(precision) as mode:
        batch = batch_there(mode, shape)
        module = make_module(shape, attention=attention, window=window, dropout=0.1)
        hidden = module.hidden(batch)
        sums = module.training_sums(batch)
        assert hidden.shape == (batch.target_count, 16)
        assert (hidden.device, hidden.dtype) == (CUDA, PRECISIONS[precision])
        assert (sums.loss.device, sums.loss.dtype) == (CUDA, torch.float64)
        assert (sums.correct.device, sums.correct.dtype) == (CUDA, torch.int64)
        assert batch_flops(module.model, batch).device in (CUDA, torch.device("cpu"))


@every_precision
def test_the_fastest_way_to_attend(precision: str):
    expected = "padded" if precision == "fp32" else "varlen"
    assert select_backend("auto", CUDA, PRECISIONS[precision]) == expected


@every_precision
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_prefixes(precision: str, window: int | None, checkpointed: bool):
    with on_fake_cuda(precision) as mode:
        batch = batch_there(mode, "decoder", prefix=True)
        module = make_module("decoder", window=window, checkpoint_activations=checkpointed)
        assert module.training_sums(batch).loss.device == CUDA


@every_shape
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_whole_step(shape: Shape, optimizer: str, monkeypatch: pytest.MonkeyPatch):
    logged: dict[str, Any] = {}
    monkeypatch.setattr(TokenModule, "device", CUDA)
    monkeypatch.setattr(TokenModule, "log", lambda _, name, value: logged.update({name: value}))
    monkeypatch.setattr(TokenModule, "log_dict", lambda _, values: logged.update(values))
    monkeypatch.setattr(step, "clip_gradients", lambda *given: Answered(clip_gradients(*given)))
    with on_fake_cuda("bf16") as mode:
        module = make_module(shape, OPTIMIZERS[optimizer])
        trainer = attached(module)
        batch = batch_there(mode, shape)

        def backward(loss: Tensor, *_: Any, **__: Any) -> None:
            assert (loss.device, loss.dtype, loss.shape) == (CUDA, torch.float64, ())
            for weight in module.model.parameters():
                weight.grad = torch.zeros_like(weight)

        monkeypatch.setattr(module, "manual_backward", backward)
        for _ in range(2):
            module.training_step([batch, batch], 0)
        [state] = trainer.optimizers
        assert len(state.state) == len(list(module.model.parameters()))
        for weight, kept in state.state.items():
            moments = [value for value in kept.values() if value.shape == weight.shape]
            assert moments
            assert all(value.device == CUDA for value in moments)
    assert module.step.gradient_scale.device == CUDA
    for name in ("train/loss", "train/accuracy"):
        assert (logged[name].device, logged[name].dtype) == (CUDA, torch.float32)
    assert logged["train/learning_rate"] == pytest.approx(1e-3)


def attached(module: TokenModule) -> L.Trainer:
    """A trainer as in a fit, whose optimizer and schedule are the module's."""
    trainer = make_trainer(1, steps=3)
    module.trainer = trainer
    trainer.strategy.connect(module)
    trainer.strategy._lightning_module = module
    trainer.strategy.setup_optimizers(trainer)
    return trainer


@every_precision
@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("window", [None, 2])
def test_generation_up_to_what_it_reads(
    shape: Shape, precision: str, window: int | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(continuation, "check_finite", lambda logits: None)
    with torch.no_grad(), on_fake_cuda(precision) as mode:
        module = make_module(shape, window=window)
        prompts = batch_there(mode, shape)
        going_on = continuation.Cached(module.model, module.head, prompts)  # pyright: ignore
        logits = going_on.start()
        sample = Sampling(temperature=0.7, top_k=5, top_p=0.9, seed=0).sampler([0, 1, 2])
        for rows in ([0, 1, 2], [0, 2], [2]):  # sequences end one after the other
            ids = sample(logits, rows)
            assert ids.device == logits.device == CUDA
            assert logits.shape == (len(rows), VOCABULARY)
            keep = torch.arange(len(rows), device=CUDA)
            going_on.select(keep[:, None])
            logits = going_on.step(ids)
            keep = keep[1:] if len(rows) > 1 else keep
            going_on.select(keep[:, None])
            logits = logits[keep]


def test_it_can_fail(monkeypatch: pytest.MonkeyPatch):
    with on_fake_cuda() as mode:
        batch, module = batch_there(mode, "decoder"), make_module("decoder")
        with pytest.raises(RuntimeError, match="device"):
            module.training_sums(batch.to("cpu"))
        with pytest.raises(DataDependentOutputException):
            bool(module.training_sums(batch).loss > 0)
