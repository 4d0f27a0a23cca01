"""A loss, a step or an evaluation of one's own is a subclass that overrides one method."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn import functional as F

from everytoken.batch import Batch, PaddingSide
from everytoken.data.collate import Example, collate, filler
from everytoken.errors import UserError
from everytoken.training.evaluation_metrics import EvaluationMetrics
from everytoken.training.loss import TargetSums
from everytoken.training.module import TokenModule
from support.fitting import fit, make_module, make_own, steps
from support.helpers import make_batch, make_examples
from support.own_modules import MeanOfMicroBatch, Tempered

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]

EXAMPLES = make_examples([3, 9, 5, 1, 7, 12], with_source=False)
TEMPERATURE = 3.0


def gradient(module: TokenModule, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
    """What one step of plain gradient descent with a rate of 1 moves, by parameter."""
    module.make_optimizer = lambda groups: torch.optim.SGD(groups, lr=1.0)
    before = deepcopy(module.model.state_dict())
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader: Any = torch.utils.data.DataLoader([list(micro_batches)], batch_size=None)  # pyright: ignore[reportArgumentType]
    trainer.fit(module, loader)
    return {name: before[name] - value for name, value in module.model.state_dict().items()}


def by_hand(model: nn.Module, examples: Sequence[Example]) -> dict[str, Tensor]:
    """The gradient of the mean over all target tokens, one example at a time."""
    total = torch.zeros((), dtype=torch.float64)
    count = 0
    assert isinstance(model.head, nn.Module)
    for example in examples:
        batch = collate([example], 0)
        logits = model.head(model(batch)) / TEMPERATURE
        total = total + F.cross_entropy(logits, batch.targets, reduction="sum").double()
        count += batch.target_count
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(total / count, parameters), strict=True))


def furthest(right: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    """The largest difference, as a part of the largest gradient."""
    largest = max(float(value.abs().max()) for value in right.values())
    return max(float((right[n] - found[n]).abs().max()) for n in right) / largest


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cut", [[6], [1, 5], [2, 1, 3]])
def test_another_loss_counts_every_target_token_once(cut: list[int], side: PaddingSide) -> None:
    module = make_own(Tempered, temperature=TEMPERATURE)
    expected = by_hand(module.model, EXAMPLES)
    rest = iter(EXAMPLES)
    parts = [[next(rest) for _ in range(count)] for count in cut]
    micro_batches = [collate(part, 9, padding_side=side, pad_to_multiple_of=8) for part in parts]
    found = gradient(module, [*micro_batches, filler(0, with_source=False)])
    assert furthest(expected, found) < 1e-5


def test_a_mean_per_micro_batch_would_be_another_gradient() -> None:
    module = make_own(MeanOfMicroBatch, temperature=TEMPERATURE)
    expected = by_hand(module.model, EXAMPLES)
    found = gradient(module, [collate(EXAMPLES[:1], 0), collate(EXAMPLES[1:], 0)])
    assert furthest(expected, found) > 0.1


def test_a_loss_of_ones_own_needs_a_target_and_its_own_keys_in_yaml() -> None:
    made = {"_target_": "support.own_modules.Tempered", "temperature": 2.0, "_partial_": True}
    module = make_own(instantiate(made))
    assert isinstance(module, Tempered)
    assert module.temperature == 2.0
    with pytest.raises(Exception, match="unexpected keyword argument 'temprature'"):
        make_own(Tempered, temperature=2.0, temprature=3.0)


def test_evaluation_reports_the_cross_entropy_whatever_is_trained() -> None:
    batch = make_batch([4, 6])
    values = []
    for module in (make_module(), make_own(Tempered, temperature=TEMPERATURE)):
        module.evaluation_step(batch, module.val_metrics, keep=False)
        values.append(float(module.val_metrics.values()["loss"]))
    assert values[0] == values[1]


@pytest.mark.bad_input
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_reduced_loss_is_refused_in_a_line(tmp_path: Path, reduction: str) -> None:
    class Reduced(TokenModule):
        def target_sums(self, batch: Batch, *_: float) -> TargetSums:
            logits = self.head(self.hidden(batch))
            loss = F.cross_entropy(logits, batch.targets, reduction=reduction)
            return TargetSums.of(loss, logits, batch.targets)

    with pytest.raises(UserError, match=r"shape \(\) and must be \(\d+,\), one for each target"):
        fit(tmp_path, module=make_own(Reduced))


@pytest.mark.bad_input
def test_a_loss_of_ones_own_without_a_gradient_is_refused(tmp_path: Path) -> None:
    class Detached(TokenModule):
        def target_sums(self, batch: Batch, *options: float) -> TargetSums:
            sums = super().target_sums(batch, *options)
            return TargetSums(sums.loss.detach(), sums.correct)

    with pytest.raises(UserError, match="has no gradient"):
        fit(tmp_path, module=make_own(Detached))


# A gradient that isn't finite


class Infinite(TokenModule):
    """Every third step has a loss that is infinite."""

    def target_sums(self, batch: Batch, *options: float) -> TargetSums:
        sums = super().target_sums(batch, *options)
        bad = self.trainer.global_step % 3 == 2
        return TargetSums(sums.loss * torch.inf if bad else sums.loss, sums.correct)


class Notes(L.Callback):
    """Has the hook, and lets the step pass."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_nonfinite_gradient(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TokenModule)
        assert not pl_module.step.gradient_norm.isfinite()
        assert not pl_module.step.loss_sum.isfinite()
        assert all(not p.grad.any() for p in pl_module.parameters() if p.grad is not None)
        self.steps.append(trainer.global_step)


def test_callbacks_with_the_hook_decide_what_becomes_of_such_a_step(tmp_path: Path) -> None:
    notes = Notes()
    trainer, module = fit(tmp_path, notes, module=make_own(Infinite))
    assert notes.steps == [2]
    assert trainer.global_step == 5
    assert all(p.isfinite().all() for p in module.parameters())


def test_without_the_hook_the_run_stops(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the gradient's norm is nan at step 3"):
        fit(tmp_path, L.Callback(), module=make_own(Infinite))


def test_a_subclass_may_decide_itself(tmp_path: Path) -> None:
    class Careless(Infinite):
        def on_nonfinite_gradient(self) -> None:
            pass

    notes = Notes()
    trainer, _ = fit(tmp_path, notes, module=make_own(Careless))
    assert notes.steps == []
    assert trainer.global_step == 5


# A step, an evaluation


def test_what_is_known_of_a_step(tmp_path: Path) -> None:
    class Watches(L.Callback):
        def on_before_optimizer_step(
            self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: object
        ) -> None:
            assert isinstance(pl_module, TokenModule)
            count = sum(batch.target_count for batch in steps()[trainer.global_step])
            assert float(pl_module.step.gradient_scale) == pytest.approx(1 / count)
            assert float(pl_module.step.loss_sum) > 0
            assert pl_module.step.batch is None

        def on_train_batch_start(
            self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
        ) -> None:
            assert isinstance(pl_module, TokenModule)
            pl_module.step.votes = [trainer.global_step, 7]

        def on_train_batch_end(
            self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
        ) -> None:
            assert isinstance(pl_module, TokenModule)
            counts = pl_module.step.vote_counts
            assert counts is not None
            assert counts.read().tolist() == [trainer.global_step - 1, 7]

    trainer, module = fit(tmp_path, Watches())
    assert trainer.global_step == 5
    batch = make_batch([4])
    module.hidden(batch)
    assert module.step.batch is batch


def test_a_step_of_ones_own_may_surround_ours(tmp_path: Path) -> None:
    class Counts(TokenModule):
        seen = 0

        def training_step(self, micro_batches: list[Batch], batch_idx: int) -> None:
            self.seen += sum(batch.real_count for batch in micro_batches)
            super().training_step(micro_batches, batch_idx)

    _, module = fit(tmp_path, module=make_own(Counts))
    assert isinstance(module, Counts)
    assert module.seen == sum(batch.real_count for step in steps() for batch in step)


def test_an_evaluation_of_ones_own_may_surround_ours(tmp_path: Path) -> None:
    class Longest(TokenModule):
        longest = 0

        def evaluation_step(self, batch: Batch, metrics: EvaluationMetrics, *, keep: bool) -> None:
            super().evaluation_step(batch, metrics, keep=keep)
            self.longest = max(self.longest, int(batch.lengths.max()))

    _, module = fit(tmp_path, validate_every=5, module=make_own(Longest))
    assert isinstance(module, Longest)
    assert module.longest == 5
    assert len(module.evaluated.predictions) == 2
