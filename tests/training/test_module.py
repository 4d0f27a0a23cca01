"""One optimizer step and exact evaluation, through the real Trainer: the cut leaves no trace."""

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader

from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide
from everytoken.data.collate import Example, collate, filler
from everytoken.data.cut import Topology, cut
from everytoken.decoding.sampling import Greedy
from everytoken.errors import UserError
from everytoken.model.transformer import Shape, Transformer
from everytoken.model.unpad import repad, unpad
from everytoken.tokenizer.special import SpecialIds
from everytoken.training.module import TokenModule
from support.helpers import VOCABULARY, make_batch, make_examples, make_model, reference_loss
from support.outside import GivesNan, NoGradient, WrongShape

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]

SPECIAL = SpecialIds(0, 1, 2, 3, 4)
LENGTHS = (7, 2, 19, 11, 3, 12, 16, 5, 2, 13, 9, 17, 14, 1, 8)
SHAPES: tuple[Shape, ...] = ("encoder_decoder", "decoder", "encoder")
TOPOLOGY_BOUND = 1e-6
every_shape = pytest.mark.parametrize("shape", SHAPES)


class LSTM(nn.Module):
    """A model that is not ours: it keeps the contract, and computes on padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 12)
        self.lstm = nn.LSTM(12, 12, batch_first=True)
        self.head = nn.Linear(12, VOCABULARY)

    def forward(self, batch: Batch) -> Tensor:
        hidden, _ = self.lstm(self.embedding(batch.input_ids))
        return hidden[batch.is_target]


# The change of the weights is the gradient; or so large that weights show it and little else.
gradient_descent = partial(SGD, lr=1.0)
large_steps = partial(SGD, lr=100.0)


def flat_rate(optimizer: Optimizer, total_steps: int) -> LRScheduler:
    return LambdaLR(optimizer, lambda step: 1.0)


def falling_rate(optimizer: Optimizer, total_steps: int) -> LRScheduler:
    return LambdaLR(optimizer, lambda step: 1 / (1 + step))


def make_module(
    model: nn.Module,
    *,
    optimizer: Callable[..., Optimizer] = gradient_descent,
    scheduler: Callable[..., LRScheduler] = flat_rate,
    total_steps: int = 1,
    label_smoothing: float = 0.0,
    clip_norm: float | None = None,
    max_new_tokens: int | None = None,
) -> TokenModule:
    return TokenModule(
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        total_steps=total_steps,
        seed=1,
        label_smoothing=label_smoothing,
        z_loss=0.0,
        clip_norm=clip_norm,
        special=SPECIAL,
        decode=str,
        max_new_tokens=max_new_tokens,
        decoding=Greedy(),
        more_metrics={},
    )


def make_trainer(steps: int = 1, precision: Any = "32-true") -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        precision=precision,
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )


def loader(items: Sequence[Any]) -> DataLoader[Any]:
    return DataLoader(list(items), batch_size=None)  # pyright: ignore[reportArgumentType]


class KeepLogged(L.Callback):
    """Keeps what was logged at each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.steps.append({name: float(v) for name, v in trainer.callback_metrics.items()})


def train(
    model: nn.Module, steps: Sequence[list[Batch]], *, precision: Any = "32-true", **options: Any
) -> tuple[nn.Module, list[dict[str, float]]]:
    """A trained copy of the model, and what was logged at each step."""
    trainer = make_trainer(len(steps), precision)
    kept = KeepLogged()
    trainer.callbacks.append(kept)  # pyright: ignore[reportAttributeAccessIssue]
    module = make_module(deepcopy(model), total_steps=len(steps), **options)
    trainer.fit(module, loader(steps))
    assert trainer.global_step == len(kept.steps) == len(steps)
    return module.model, kept.steps


def evaluate(module: TokenModule, batches: Sequence[Batch], split: str = "val") -> dict[str, float]:
    """The metrics of the module, without the name of the split."""
    trainer = make_trainer()
    run = trainer.validate if split == "val" else trainer.test
    found = dict(run(module, loader(batches), verbose=False)[0])
    assert found.pop("step") == 0
    assert all(name.startswith(f"{split}/") for name in found)
    return {name.removeprefix(f"{split}/"): value for name, value in found.items()}


def make_steady_model(shape: Shape) -> Transformer:
    """`make_model` with smaller weights, which amplify less of float32's rounding."""
    model = make_model(shape)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight *= 0.3
    return model


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).double()


def assert_trained_alike(
    start: nn.Module, one: nn.Module, other: nn.Module, bound: float = TOPOLOGY_BOUND
) -> None:
    """Two models are no further apart than this part of what training changed."""
    change = float((weights(other) - weights(start)).norm())
    apart = float((weights(one) - weights(other)).norm())
    assert change > 0.1
    assert apart / change <= bound


def real_counts(examples: Sequence[Example]) -> np.ndarray:
    return np.array(
        [len(e.input_ids) + (0 if e.source_ids is None else len(e.source_ids)) for e in examples]
    )


def cut_into(examples: Sequence[Example], count: int) -> list[Batch]:
    """The examples in this many micro-batches, as the sampler cuts them."""
    lengths = real_counts(examples)
    for limit in range(lengths.sum(), lengths.max() - 1, -1):
        parts = cut(np.arange(len(examples)), lengths, Topology(1, 0, limit))
        if len(parts) == count:
            return [collate([examples[i] for i in part], pad_id=0) for part in parts]
    raise AssertionError(f"no limit cuts the examples into {count}")


def examples_for(shape: Shape, seed: int = 0) -> list[Example]:
    return make_examples(LENGTHS, with_source=shape == "encoder_decoder", seed=seed)


def padded_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits (B, T, V) of every position, zeros in the padding (which is on the right)."""
    every = Batch.make(
        input_ids=batch.input_ids,
        labels=torch.where(batch.is_real, 0, IGNORE_INDEX),
        lengths=batch.lengths,
        source_ids=batch.source_ids,
        source_lengths=batch.source_lengths,
    )
    _, borders = unpad(batch.input_ids, batch.lengths, batch.input_count, "right")
    assert isinstance(model.head, nn.Module)
    return repad(model.head(model(every)), borders)


def plain_loop(
    model: nn.Module,
    batches: Sequence[Batch],
    make_optimizer: Callable[..., Optimizer],
    rates: Sequence[float],
    label_smoothing: float,
    clip_norm: float | None,
) -> tuple[nn.Module, list[float]]:
    """The same training as everybody writes it, one whole padded batch a step."""
    model = deepcopy(model)
    optimizer = make_optimizer(model.parameters())
    losses = []
    for batch, rate in zip(batches, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        loss = F.cross_entropy(
            padded_logits(model, batch).flatten(0, 1),
            batch.labels.flatten(),
            ignore_index=IGNORE_INDEX,
            label_smoothing=label_smoothing,
        )
        optimizer.zero_grad()
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        losses.append(float(loss.detach()))
    return model, losses


# Training: the topology


@every_shape
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 0.05},
        {"label_smoothing": 0.2},
        {"clip_norm": 0.05, "label_smoothing": 0.2},
    ],
    ids=["plain", "clipped", "smoothed", "clipped and smoothed"],
)
def test_the_cut_into_micro_batches_leaves_no_trace(shape: Shape, options: dict) -> None:
    model, examples = make_steady_model(shape), examples_for(shape)
    parts = {count: cut_into(examples, count) for count in (1, 3, 7)}
    one = filler(0, with_source=shape == "encoder_decoder")
    variants = [parts[3], parts[7], [*parts[3], one, one], [one, *parts[7], one]]
    expected, (logged,) = train(model, [parts[1]], optimizer=large_steps, **options)
    assert logged["train/gradient_norm"] > 0.05  # so clipping clips
    for micro_batches in variants:
        trained, (other,) = train(model, [micro_batches], optimizer=large_steps, **options)
        assert_trained_alike(model, trained, expected)
        assert other == pytest.approx(logged, rel=1e-5)


@every_shape
def test_padding_leaves_no_trace(shape: Shape) -> None:
    model, examples = make_steady_model(shape), examples_for(shape)
    expected, _ = train(model, [[collate(examples, 0)]], optimizer=large_steps)
    left: PaddingSide = "left"
    wide = collate(examples, 9, padding_side=left, pad_to_multiple_of=16)
    trained, _ = train(model, [[wide]], optimizer=large_steps)
    assert_trained_alike(model, trained, expected)


@every_shape
@pytest.mark.parametrize(
    ("label_smoothing", "clip_norm"), [(0.0, None), (0.1, None), (0.0, 0.5), (0.1, 0.5)]
)
def test_training_equals_a_plain_loop_over_whole_padded_batches(
    shape: Shape, label_smoothing: float, clip_norm: float | None
) -> None:
    model = make_model(shape)
    steps = [examples_for(shape, seed) for seed in range(3)]
    make_optimizer = partial(SGD, lr=0.5, momentum=0.9)
    expected, losses = plain_loop(
        model,
        [collate(examples, 0) for examples in steps],
        make_optimizer,
        [0.5, 0.5 / 2, 0.5 / 3],
        label_smoothing,
        clip_norm,
    )
    trained, logged = train(
        model,
        [cut_into(examples, 3) for examples in steps],
        optimizer=make_optimizer,
        scheduler=falling_rate,
        label_smoothing=label_smoothing,
        clip_norm=clip_norm,
    )
    assert_trained_alike(model, trained, expected, bound=1e-5)
    assert [step["train/loss"] for step in logged] == pytest.approx(losses, rel=1e-5)


def test_a_micro_batch_of_few_targets_weighs_little() -> None:
    # A mean of the means would give both halves the same weight.
    model = make_model("decoder")
    few = Example(np.arange(8), np.array([5, *[IGNORE_INDEX] * 7]))
    many = Example(np.arange(8), np.arange(1, 9))
    together, _ = train(model, [[collate([few], 0), collate([many], 0)]])
    alone = [train(model, [[collate([example], 0)]])[0] for example in (few, many)]
    gradient_few, gradient_many = (weights(one) - weights(model) for one in alone)
    expected = (1 * gradient_few + 8 * gradient_many) / 9
    assert torch.allclose(weights(together) - weights(model), expected, atol=1e-6)


# Training: clipping, nothing to learn, what is logged


def test_clip_norm_limits_the_step() -> None:
    model, steps = make_model("decoder"), [[make_batch([9, 4, 6])]]
    free, (logged,) = train(model, steps, clip_norm=None)
    step = weights(free) - weights(model)
    norm = float(step.norm())
    assert norm > 0.1
    assert logged["train/gradient_norm"] == pytest.approx(norm, rel=1e-4)
    clipped, (logged,) = train(model, steps, clip_norm=0.1)
    assert torch.allclose(weights(clipped) - weights(model), step * 0.1 / norm, atol=1e-6)
    assert logged["train/gradient_norm"] == pytest.approx(norm, rel=1e-4)
    below, _ = train(model, steps, clip_norm=10 * norm)
    assert weights(below).equal(weights(free))


@every_shape
@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_step_without_targets_changes_nothing(
    shape: Shape, clip_norm: float | None, label_smoothing: float
) -> None:
    model = make_model(shape)
    with_source = shape == "encoder_decoder"
    ignored = make_examples([4, 2], with_source=with_source, ignored=1.1)
    empty = [filler(0, with_source=with_source), collate(ignored, 0)]
    trained, (logged,) = train(model, [empty], clip_norm=clip_norm, label_smoothing=label_smoothing)
    assert weights(trained).equal(weights(model))
    assert logged["train/loss"] == logged["train/accuracy"] == logged["train/gradient_norm"] == 0


def test_a_step_without_targets_does_not_disturb_the_next() -> None:
    model = make_model("decoder")
    empty = [collate(make_examples([4], with_source=False, ignored=1.1), 0)]
    batch = [make_batch([9, 4, 6])]
    trained, _ = train(model, [empty, batch])
    expected, _ = train(model, [batch])
    assert weights(trained).equal(weights(expected))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_logged_loss_and_accuracy_are_means_over_the_tokens_of_the_step(
    label_smoothing: float,
) -> None:
    model, examples = make_model("decoder"), examples_for("decoder")
    whole = collate(examples, 0)
    with torch.no_grad():
        logits = padded_logits(model, whole)
    losses = reference_loss(logits, whole.labels, label_smoothing)
    hits = (logits.argmax(-1) == whole.labels).sum().item()
    assert 0 < hits < len(losses) == whole.target_count
    _, (logged,) = train(model, [cut_into(examples, 7)], label_smoothing=label_smoothing)
    assert logged["train/loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert logged["train/accuracy"] == pytest.approx(hits / len(losses), rel=1e-6)


def test_the_rate_is_logged_and_falls_once_a_step() -> None:
    steps = [cut_into(examples_for("decoder"), 3)] * 3
    _, logged = train(make_model("decoder"), steps, scheduler=falling_rate)
    rates = [step["train/learning_rate"] for step in logged]
    assert rates == pytest.approx([1, 1 / 2, 1 / 3])
    assert [step["step"] for step in logged] == [1, 2, 3]


def test_the_scheduler_knows_the_number_of_steps() -> None:
    known = []

    def note(optimizer: Optimizer, total_steps: int) -> LRScheduler:
        known.append(total_steps)
        return flat_rate(optimizer, total_steps)

    train(make_model("decoder"), [[make_batch([3])]] * 2, scheduler=note)
    assert known == [2]


def test_bf16_is_near_fp32() -> None:
    model, steps = make_model("encoder_decoder"), [cut_into(examples_for("encoder_decoder"), 3)]
    exact, (logged,) = train(model, steps)
    near, (in_bf16,) = train(model, steps, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 for p in near.parameters())
    assert in_bf16["train/loss"] == pytest.approx(logged["train/loss"], rel=2e-2)
    assert in_bf16["train/loss"] != logged["train/loss"]
    assert_trained_alike(model, near, exact, bound=0.15)


# Optimizer


def groups(model: nn.Module) -> dict[str, float]:
    """Weight decay by name of parameter; each is in one group."""
    found = make_module(
        model, optimizer=partial(AdamW, lr=1e-3, weight_decay=0.25)
    ).configure_optimizers()
    assert all(group["params"] for group in found["optimizer"].param_groups)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = [
        (names[id(parameter)], group["weight_decay"])
        for group in found["optimizer"].param_groups
        for parameter in group["params"]
    ]
    assert len(dict(decays)) == len(decays)
    return dict(decays)


@every_shape
def test_weights_decay_but_norms_do_not(shape: Shape) -> None:
    model = make_model(shape)
    found = groups(model)
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert {name: decay for name, decay in found.items() if decay == 0} == {
        name: 0 for name in found if "norm" in name
    }
    assert {decay for name, decay in found.items() if "norm" not in name} == {0.25}


def test_biases_do_not_decay() -> None:
    found = groups(LSTM())
    assert {name for name, decay in found.items() if decay == 0} == {
        *("lstm.bias_ih_l0", "lstm.bias_hh_l0", "head.bias"),
    }


def test_frozen_parameters_are_left_out() -> None:
    model = make_model("decoder")
    model.embedding.weight.requires_grad_(False)
    assert "embedding.weight" not in groups(model)
    trained, _ = train(model, [[make_batch([9, 4, 6])]])
    assert isinstance(trained, Transformer)
    assert torch.equal(trained.embedding.weight, model.embedding.weight)


def test_a_model_without_norms_and_biases_has_one_group() -> None:
    class Bigrams(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, 4)
            self.head = nn.Linear(4, VOCABULARY, bias=False)

        def forward(self, batch: Batch) -> Tensor:
            return self.embedding(batch.input_ids)[batch.is_target]

    assert groups(Bigrams()) == {"embedding.weight": 0.25, "head.weight": 0.25}
    train(Bigrams(), [[make_batch([5])]])


# Another model


def test_any_module_that_keeps_the_contract_trains_alike() -> None:
    model, examples = LSTM(), examples_for("decoder")
    options = {"optimizer": large_steps, "clip_norm": 0.2}
    expected, (logged,) = train(model, [cut_into(examples, 1)], **options)
    trained, (other,) = train(model, [cut_into(examples, 7)], **options)
    assert_trained_alike(model, trained, expected)
    assert other == pytest.approx(logged, rel=1e-5)
    loop, _ = plain_loop(model, [collate(examples, 0)], SGD, [100.0], 0.0, 0.2)
    assert_trained_alike(model, loop, expected)


def test_any_module_that_keeps_the_contract_is_evaluated_alike() -> None:
    examples = examples_for("decoder")
    whole, parts = (
        evaluate(make_module(LSTM(), max_new_tokens=3), cut_into(examples, count))
        for count in (1, 7)
    )
    assert parts == pytest.approx(whole, rel=1e-6)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (WrongShape, r"WrongShape must return one hidden state per target token, \(10, D\)"),
        (NoGradient, "the loss of NoGradient has no gradient"),
        (GivesNan, "the gradient's norm is nan at step 1: see with python -m audit"),
    ],
)
def test_a_model_that_breaks_the_contract_is_told_so(model: type[nn.Module], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(model(VOCABULARY, 12), [[make_batch([9, 4])]])


def test_a_frozen_body_under_a_head_that_learns_keeps_the_contract() -> None:
    model = LSTM()
    for frozen in (model.embedding, model.lstm):
        frozen.requires_grad_(False)
    train(model, [[make_batch([9, 4])]])


# Evaluation


def with_fillers(batches: Sequence[Batch], *, with_source: bool) -> list[Batch]:
    one = filler(0, with_source=with_source)
    return [batches[0], one, *batches[1:], one, one]


@every_shape
@pytest.mark.parametrize("split", ["val", "test"])
def test_metrics_are_means_over_all_tokens_however_they_are_cut(shape: Shape, split: str) -> None:
    model, examples = make_model(shape), examples_for(shape)
    whole = collate(examples, 0)
    with torch.no_grad():
        logits = padded_logits(model, whole)
    losses = reference_loss(logits, whole.labels)
    loss = sum(losses) / len(losses)
    accuracy = (logits.argmax(-1) == whole.labels).sum().item() / len(losses)
    assert accuracy > 0
    expected = {"loss": loss, "accuracy": accuracy, "perplexity": np.exp(loss)}
    # Smoothing is for training alone.
    module = make_module(model, label_smoothing=0.3)
    for count in (1, 3, 7):
        batches = cut_into(examples, count)
        assert evaluate(module, batches, split) == pytest.approx(expected, rel=1e-6)
        more = with_fillers(batches, with_source=shape == "encoder_decoder")
        assert evaluate(module, more, split) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("split", ["val", "test"])
def test_exact_match_counts_generated_sequences_however_they_are_cut(split: str) -> None:
    model = make_model("encoder_decoder")
    module = make_module(model, max_new_tokens=6)
    sources = [e.source_ids for e in examples_for("encoder_decoder")][:7]
    begin = [Example(np.array([1]), np.array([IGNORE_INDEX]), source) for source in sources]
    generated = module.generate(collate(begin, 0), max_new_tokens=6)
    assert any(generated)
    examples = []
    for i, (source, new) in enumerate(zip(sources, generated, strict=True)):
        target = new if i in (0, 2, 5) else [*new, 7] if i == 1 else [9, 8, *new[1:]]
        labels = np.array([*target, SPECIAL.eos])
        examples.append(Example(np.array([1, *target]), labels, source))
    found = []
    for count in (1, 3, 7):
        batches = cut_into(examples, count)
        found += [
            evaluate(module, batches, split),
            evaluate(module, with_fillers(batches, with_source=True), split),
        ]
    for metrics in found:
        assert metrics["exact_match"] == pytest.approx(3 / 7)
        assert metrics == pytest.approx(found[0], rel=1e-6)


@pytest.mark.parametrize("shape", ["decoder", "encoder_decoder"])
def test_evaluation_generates_for_targets_of_any_length_as_for_each_alone(shape: Shape) -> None:
    """In one batch some answers end by themselves, and others are cut off."""
    model = make_model(shape)
    module = make_module(model, max_new_tokens=5)
    examples = []
    for i, source in enumerate([e.source_ids for e in examples_for("encoder_decoder")][:6]):
        prompt = [1, 7 + i] if shape == "decoder" else [1]
        target = [8, 9, 10, 11, SPECIAL.eos][-(2, 5)[i % 2] :]
        labels = [*[IGNORE_INDEX] * (len(prompt) - 1), *target]
        own = source if shape == "encoder_decoder" else None
        examples.append(Example(np.array([*prompt, *target[:-1]]), np.array(labels), own))

    def answers(*examples: Example) -> list[list[int]]:
        evaluate(module, [collate(examples, 0)])
        return [shown.prediction for shown in module.evaluated.predictions]

    model.end_ids = (SPECIAL.eos, answers(examples[0])[0][2])
    alone = [answers(example)[0] for example in examples]
    assert answers(*examples) == alone
    assert {5} < {len(row) for row in alone}
    assert module.evaluated.cut_off == pytest.approx(sum(len(r) == 5 for r in alone) / len(alone))


def test_exact_match_does_not_see_what_training_reads() -> None:
    # Given the target, a model may predict all of it; free running goes astray at the first token.
    model = make_model("encoder_decoder")
    (example,) = make_examples([6], with_source=True, ignored=0.0)
    module = make_module(model, max_new_tokens=8)
    hidden = model(collate([example], 0))
    labels = model.head(hidden).argmax(-1).numpy()
    start = Example(example.input_ids[:1], np.array([IGNORE_INDEX]), example.source_ids)
    (generated,) = module.generate(collate([start], 0), max_new_tokens=6)
    assert [t for t in labels if t != SPECIAL.eos] != generated
    found = evaluate(module, [collate([Example(example.input_ids, labels, example.source_ids)], 0)])
    assert found["accuracy"] == 1
    assert found["exact_match"] == 0


def test_without_generation_there_is_no_exact_match() -> None:
    assert set(evaluate(make_module(make_model("decoder")), [make_batch([5])])) == {
        *("loss", "accuracy", "perplexity"),
    }


def test_each_evaluation_starts_from_nothing() -> None:
    module = make_module(make_model("decoder"))
    easy, hard = [make_batch([9, 4], seed=1)], [make_batch([6, 6], seed=2)]
    first = evaluate(module, easy)
    assert evaluate(module, hard) != first
    assert evaluate(module, easy) == first


def test_evaluation_leaves_the_model_as_it_was() -> None:
    module = make_module(make_model("decoder"))
    before = weights(module.model)
    evaluate(module, [make_batch([5])])
    assert weights(module.model).equal(before)
    assert all(p.grad is None for p in module.model.parameters())


# Predictions to look at


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("shape", ["decoder", "encoder"])
def test_predictions_of_the_first_batch_are_kept(shape: Shape, padding_side: PaddingSide) -> None:
    model, lengths = make_model(shape), [3, 8, 5]
    examples = make_examples(lengths, with_source=False)
    module = make_module(model)
    first = collate(examples, 0, padding_side=padding_side)
    evaluate(module, [first, make_batch([4, 4], seed=5)])
    best = padded_logits(model, collate(examples, 0)).argmax(-1)
    assert len(module.evaluated.predictions) == 3
    for shown, example, row in zip(module.evaluated.predictions, examples, best, strict=True):
        at_targets = example.labels != IGNORE_INDEX
        assert shown.source == example.input_ids.tolist()
        assert shown.target == example.labels[at_targets].tolist()
        assert shown.prediction == row[: len(at_targets)][torch.from_numpy(at_targets)].tolist()


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_generated_predictions_of_the_first_batch_are_kept(padding_side: PaddingSide) -> None:
    model = make_model("encoder_decoder")
    module = make_module(model, max_new_tokens=5)
    examples = [
        Example(np.array([1, 9, 8]), np.array([9, 8, SPECIAL.eos]), np.array([6, 7, 5, 2])),
        Example(np.array([1, 7]), np.array([7, SPECIAL.eos]), np.array([8, 2])),
    ]
    first = collate(examples, 0, padding_side=padding_side)
    evaluate(module, [first, make_batch([4, 4], with_source=True)])
    begin = [Example(np.array([1]), np.array([IGNORE_INDEX]), e.source_ids) for e in examples]
    generated = module.generate(collate(begin, 0), max_new_tokens=5)
    assert [shown.source for shown in module.evaluated.predictions] == [[6, 7, 5, 2], [8, 2]]
    assert [shown.target for shown in module.evaluated.predictions] == [[9, 8], [7]]
    assert [shown.prediction for shown in module.evaluated.predictions] == generated
    assert any(generated)


def test_a_filler_is_no_prediction_to_look_at() -> None:
    module = make_module(make_model("encoder_decoder"), max_new_tokens=5)
    evaluate(module, [filler(0, with_source=True), make_batch([4], with_source=True)])
    assert module.evaluated.predictions == []


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_evaluation_shows_nothing_of_the_one_before(split: str) -> None:
    module = make_module(make_model("encoder_decoder"), max_new_tokens=5)
    batch = make_batch([4, 3], with_source=True)
    evaluate(module, [replace(batch, indices=torch.tensor([7, 9]))], split)
    assert len(module.evaluated.predictions) == 2
    assert set(module.evaluated.texts) == {7, 9}
    evaluate(module, [filler(0, with_source=True), batch], split)
    assert module.evaluated.predictions == []
    assert module.evaluated.texts == {}


# The data of a test itself


def test_cuts_hold_every_example_once() -> None:
    examples = examples_for("decoder")
    for count in (1, 3, 7):
        batches = cut_into(examples, count)
        rows = chain.from_iterable(
            [ids[real].tolist() for ids, real in zip(b.input_ids, b.is_real, strict=True)]
            for b in batches
        )
        assert sorted(rows) == sorted(example.input_ids.tolist() for example in examples)


def test_backward_runs_outside_of_autocast() -> None:
    module = make_module(make_model("decoder"))
    x = torch.ones(2, requires_grad=True)
    seen: list[bool] = []
    y = x * 2
    y.register_hook(lambda _: seen.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        module.backward(y.sum())
    assert seen == [False]
