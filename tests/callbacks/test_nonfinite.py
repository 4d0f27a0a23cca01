"""A step whose gradient isn't finite changes nothing, is explained, and can be repeated."""

import re
import runpy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from everytoken.batch import Batch
from everytoken.callbacks.nonfinite import NonFiniteSteps
from everytoken.callbacks.replay import Step
from everytoken.errors import FAILURE, UserError
from everytoken.training.loss import TargetSums
from support import nonfinite_jobs as jobs
from support.fitting import make_module
from support.helpers import VOCABULARY, assert_refused, run
from support.nonfinite_jobs import BAD_ID, Bigrams, Normed, good_step, poisoned

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*ended before the epoch ended.*"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*"),  # fp16 leaves out the first steps
]
CPU = torch.device("cpu")
gradient_descent = partial(SGD, lr=0.1)
GOOD = [good_step(seed) for seed in range(4)]


def bad_step() -> list[Batch]:
    """The second micro-batch has the bad token in its third row, the example 52."""
    first, second, last = good_step(9)
    ids = second.input_ids.clone()
    ids[2, 0] = BAD_ID
    return [first, replace(second, input_ids=ids, indices=torch.tensor([50, 51, 52])), last]


def fit(
    folder: Path,
    model: nn.Module,
    steps: list[list[Batch]],
    allowed: int = 0,
    optimizer: Callable[..., Optimizer] = gradient_descent,
    scaler: torch.amp.GradScaler | None = None,
    resume: Path | None = None,
) -> tuple[L.Trainer, jobs.Kept]:
    """Train on the steps; the trainer, and what was logged at each."""
    kept = jobs.Kept()
    module = make_module()
    module.model, module.make_optimizer = model, optimizer
    precision = [] if scaler is None else [MixedPrecision("16-mixed", "cpu", scaler)]
    trainer = jobs.make_trainer(
        folder, len(steps), NonFiniteSteps(folder / "nonfinite", allowed), kept, plugins=precision
    )
    trainer.fit(module, jobs.loader(steps), ckpt_path=resume, weights_only=True)
    return trainer, kept


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    assert all(map(torch.equal, one, other))


# It stops


def test_the_line_names_step_layer_micro_batch_example_and_command(tmp_path: Path):
    model = poisoned(Bigrams())
    with pytest.raises(UserError) as told:
        fit(tmp_path / "a run", model, [GOOD[0], GOOD[1], bad_step()])
    file = tmp_path / "a run" / "nonfinite" / "step-3-rank-0.pt"
    assert str(told.value) == (
        "the gradient's norm is nan at step 3: embedding is the first whose output isn't finite "
        f"in micro-batch 2 of 3 (train example 52): see python scripts/replay.py '{file}', lower "
        "optimizer.lr, or leave such steps out: trainer.skip_nonfinite_steps=1"
    )
    assert list(file.parent.iterdir()) == [file]
    assert torch.load(file, weights_only=True)["finding"] == {
        "micro_batch": 1,
        "what": "embedding is the first whose output isn't finite",
        "in_forward": True,
        "examples": [52],
    }


def test_the_weights_are_those_before_the_step(tmp_path: Path):
    model, expected = poisoned(Bigrams()), poisoned(Bigrams())
    with pytest.raises(UserError):
        fit(tmp_path, model, [*GOOD[:2], bad_step()])
    fit(tmp_path, expected, GOOD[:2])
    assert_same(weights(model), weights(expected))
    assert all(p.grad is None for p in model.parameters())


def test_a_step_between_logged_ones_stops_too(tmp_path: Path):
    """It can't be seen in the logged loss of a later step, in which all weights are NaN."""
    module = make_module()
    module.model = poisoned(Bigrams())
    guard = NonFiniteSteps(tmp_path / "nonfinite", 0)
    trainer = jobs.make_trainer(tmp_path, 4, guard, log_every_n_steps=4)
    with pytest.raises(UserError, match="at step 2: embedding"):
        trainer.fit(module, jobs.loader([GOOD[0], bad_step(), *GOOD[2:]]))


class LogOfZero(Bigrams):
    def forward(self, batch: Batch) -> Tensor:
        return super().forward(batch) + (self.out.bias * 0).log()


class RootOfZero(Bigrams):
    """Finite forward; the derivative of a square root at zero isn't."""

    def forward(self, batch: Batch) -> Tensor:
        return super().forward(batch) + (self.out.bias * 0).sqrt()


class RootOfNothing(Bigrams):
    """The same, and all layers before get it in their gradients."""

    def forward(self, batch: Batch) -> Tensor:
        hidden = super().forward(batch)
        return hidden + (hidden * 0).sqrt()


class BadByChance(Bigrams):
    """NaN in one of eight micro-batches, about."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[bool] = []

    def forward(self, batch: Batch) -> Tensor:
        drawn = torch.rand(())
        self.bad.append(bool(drawn > 0.88))
        return super().forward(batch) / (drawn <= 0.88)


class BadMask(Bigrams):
    """A mask of -inf is no fault, and comes before the fault."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Identity()

    def forward(self, batch: Batch) -> Tensor:
        mask = self.mask(torch.tensor([0.0, -torch.inf])).softmax(0)[0]
        return super().forward(batch) * mask + (self.out.bias * 0).sqrt()


@pytest.mark.parametrize(
    ("model", "where"),
    [
        (LogOfZero, "LogOfZero is the first whose output isn't finite"),
        (
            RootOfZero,
            "forward is finite, and out.bias is the first whose gradient has no finite norm",
        ),
        (
            RootOfNothing,
            "forward is finite, and out.weight is the first whose gradient has no finite norm",
        ),
        (BadMask, "forward is finite, and out.bias is the first whose gradient has no finite norm"),
    ],
)
def test_the_layer_is_found_and_the_file_alone_finds_it_again(
    tmp_path: Path, model: type[Bigrams], where: str
):
    with pytest.raises(UserError, match=where) as told:
        fit(tmp_path, model(), GOOD)
    [file] = (tmp_path / "nonfinite").iterdir()
    step, saved = Step.load(file, CPU)
    again = make_module()
    again.model = model()
    again.model.load_state_dict(saved)
    finding = step.finding(step.repeat(again))
    assert finding is not None
    assert finding.what == re.search(r"step \d: (.*) in micro-batch", str(told.value))[1]  # pyright: ignore
    assert f"micro-batch {finding.micro_batch + 1} of 3" in str(told.value)


def test_the_chance_of_the_step_is_repeated(tmp_path: Path):
    model = BadByChance()
    with pytest.raises(UserError) as told:
        fit(tmp_path, model, GOOD * 3)
    step, micro_batch = divmod(model.bad.index(True), 3)
    assert step > 0
    assert f"at step {step + 1}: BadByChance" in str(told.value)
    assert f"micro-batch {micro_batch + 1} of 3" in str(told.value)
    assert model.bad[-6:-3] == model.bad[-3:]


def test_a_file_that_can_not_be_written_hides_nothing(tmp_path: Path):
    (tmp_path / "nonfinite").write_text("in the way")
    with pytest.raises(UserError, match=r"at step 1: embedding .* can't be written \(.*exists"):
        fit(tmp_path, poisoned(Bigrams()), [bad_step()])


def test_a_loss_is_told_that_no_layer_and_no_gradient_shows(tmp_path: Path):
    """Log(0) is added to it, which has no gradient."""
    module = make_module()
    module.model = Bigrams()
    sums_of = module.target_sums

    def target_sums(batch: Batch, label_smoothing: float = 0.0, z_loss: float = 0.0) -> TargetSums:
        sums = sums_of(batch, label_smoothing, z_loss)
        return TargetSums(sums.loss + torch.tensor(0.0).log(), sums.correct)

    module.target_sums = target_sums
    trainer = jobs.make_trainer(tmp_path, 1, NonFiniteSteps(tmp_path / "nonfinite", 0))
    with pytest.raises(UserError, match="the loss is the first that isn't finite in micro-batch 1"):
        trainer.fit(module, jobs.loader(GOOD[:1]))


def test_logits_are_looked_at_though_the_loss_makes_them_itself(tmp_path: Path):
    model = Bigrams()
    with torch.no_grad():
        model.head.weight[3] = torch.inf
    with pytest.raises(UserError, match="head is the first whose output isn't finite"):
        fit(tmp_path, model, GOOD)


class Steep(Bigrams):
    """Has a parameter whose gradient is finite and enormous."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.steep = nn.Parameter(torch.zeros(8))
        self.slope = slope

    def forward(self, batch: Batch) -> Tensor:
        return super().forward(batch) + (self.steep - self.steep.detach()) * self.slope


def test_a_norm_that_overflows_is_told_though_no_value_does(tmp_path: Path):
    with pytest.raises(UserError, match=r"norm is inf at step 1: .* and steep is the first whose"):
        fit(tmp_path, Steep(1e30), GOOD)


def test_a_sum_that_overflows_is_told_though_no_part_does(tmp_path: Path):
    step, gentle = GOOD[0][:1] * 2, Steep(1.0)
    module = make_module()
    module.model = gentle
    half = module.training_sums(step[0]).loss / (2 * step[0].target_count)
    half.backward()
    assert gentle.steep.grad is not None
    slope = 1.2e19 / float(gentle.steep.grad.norm())  # 1.8e19 is the largest root of a float32
    with pytest.raises(UserError, match="though each micro-batch gives a finite one when"):
        fit(tmp_path, Steep(slope), [step])


def test_a_compiled_model_is_looked_at_too(tmp_path: Path):
    model = poisoned(Bigrams())
    model.compile(backend="eager", dynamic=True)
    with pytest.raises(UserError, match="embedding is the first whose output isn't finite"):
        fit(tmp_path, model, [GOOD[0], bad_step()])


# It is passed over


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(SGD, lr=0.1, momentum=0.9),
        partial(AdamW, lr=0.1, weight_decay=0.1),
        partial(AdamW, lr=0.1, fused=True),
        partial(AdamW, lr=0.1, foreach=True),
    ],
    ids=["sgd", "adamw", "fused", "foreach"],
)
def test_a_step_that_is_left_out_leaves_no_trace_in_weights_and_optimizer(
    tmp_path: Path, optimizer: Callable[..., Optimizer], capsys: pytest.CaptureFixture[str]
):
    model, expected = poisoned(Bigrams()), poisoned(Bigrams())
    trainer, _ = fit(tmp_path, model, [*GOOD[:2], bad_step(), *GOOD[2:]], 1, optimizer)
    without, _ = fit(tmp_path, expected, GOOD, 1, optimizer)
    assert trainer.global_step == without.global_step + 1 == 5
    assert_same(weights(model), weights(expected))
    states = [t.optimizers[0].state_dict()["state"] for t in (trainer, without)]
    for one, other in zip(*(state.values() for state in states), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in one)
    said = capsys.readouterr().out
    assert "warning: left out step 3, 1 of at most 1: the gradient's norm is nan" in said
    assert (tmp_path / "nonfinite" / "step-3-rank-0.pt").exists()


@pytest.mark.parametrize("precision", ["32", "16"])
def test_a_step_that_is_left_out_leaves_no_trace_in_buffers(tmp_path: Path, precision: str):
    """Nor in the file from which it is replayed; with fp16 the scaler leaves steps out too."""
    model, expected = poisoned(Normed()), poisoned(Normed())
    search = scaler(2.0**40) if precision == "16" else None
    steps = GOOD if search else [*GOOD[:2], bad_step()]
    trainer, kept = fit(tmp_path, model, steps, 1, scaler=search)
    made = [x["train/gradient_norm"] < torch.inf for x in kept.logged]
    fit(tmp_path, expected, [step for step, good in zip(steps, made, strict=True) if good], 1)
    assert not all(made)
    assert len(list(model.buffers())) == 3
    assert_same(list(model.buffers()), list(expected.buffers()))
    if not search:
        file = tmp_path / "nonfinite" / f"step-{trainer.global_step}-rank-0.pt"
        saved = Step.load(file, CPU)[1]
        assert_same([saved[name] for name, _ in model.named_buffers()], list(model.buffers()))


def test_the_schedule_moves_on_and_the_log_is_honest(tmp_path: Path):
    steps = [GOOD[0], bad_step(), GOOD[1]]
    _, kept = fit(tmp_path, poisoned(Bigrams()), steps, allowed=3)
    assert [logged["step"] for logged in kept.logged] == [1, 2, 3]
    assert [logged["train/skipped_steps"] for logged in kept.logged] == [0, 1, 1]
    for name in ("train/loss", "train/gradient_norm"):
        assert [logged[name] == logged[name] for logged in kept.logged] == [True, False, True]
    assert kept.schedule_steps == [1, 2, 3]
    _, kept = fit(tmp_path, Bigrams(), steps[:1])
    assert "train/skipped_steps" not in kept.logged[0]


def test_it_stops_when_no_more_may_be_left_out_also_after_a_resume(tmp_path: Path):
    steps = [GOOD[0], bad_step(), GOOD[1]]
    again = "at step 5: embedding .* trainer.skip_nonfinite_steps=2"
    with pytest.raises(UserError, match=again):
        fit(tmp_path, poisoned(Bigrams()), [*steps, GOOD[2], bad_step()], 1)
    trainer, _ = fit(tmp_path, poisoned(Bigrams()), steps, 1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=again):
        fit(
            *(tmp_path, poisoned(Bigrams()), [*steps, GOOD[2], bad_step()], 1),
            resume=tmp_path / "last.ckpt",
        )


# fp16


def scaler(scale: float) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale)


def test_the_search_for_a_loss_scale_is_no_fault(tmp_path: Path):
    """A scale far too large: half of it is tried in each step."""
    search = scaler(2.0**40)
    trainer, kept = fit(tmp_path, Bigrams(), GOOD * 3, scaler=search)
    bad = [not (x["train/gradient_norm"] < torch.inf) for x in kept.logged]
    assert bad[0]
    assert search.get_scale() == 2.0 ** (40 - sum(bad))
    assert all(x["train/loss"] < 10 for x in kept.logged)
    assert trainer.global_step == 12
    assert not (tmp_path / "nonfinite").exists()


def test_a_scale_that_has_collapsed_is_a_fault(tmp_path: Path):
    with pytest.raises(UserError, match=r"at step 3: forward is finite, and out\.bias is the"):
        fit(tmp_path, RootOfZero(), GOOD, scaler=scaler(4.0))


def test_a_loss_that_is_not_finite_is_a_fault_of_no_scale(tmp_path: Path):
    model, before = poisoned(Bigrams()), poisoned(Bigrams())
    with pytest.raises(UserError, match="at step 1: embedding is the first"):
        fit(tmp_path, model, [bad_step()], scaler=scaler(1024.0))
    fit(tmp_path, model, [bad_step()], allowed=1, scaler=scaler(1024.0))
    assert_same(weights(model), weights(before))


# Several ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, dict[str, Any]]]]:
    """Where two ranks were trained, and what they found."""
    folder = tmp_path_factory.mktemp("ranks")
    return folder, jobs.run(folder)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_ranks_stop_or_pass_over_together_for_what_one_of_them_has(
    ranks: tuple[Path, list[dict[str, dict[str, Any]]]], strategy: str
):
    folder, first, second = ranks[0] / strategy, *(found[strategy] for found in ranks[1])
    line = "embedding is the first whose output isn't finite in micro-batch 2 of 3 of rank 1"
    assert line in first["stopped"]
    assert first["stopped"] == second["stopped"]
    [file] = (folder / "stop" / "nonfinite").iterdir()
    assert file.name == "step-2-rank-1.pt"
    assert str(file) in first["stopped"]
    for rank in (first, second):
        assert rank["steps"] == 3
        assert_same(rank["left out"], rank["without"])
    assert_same(first["left out"], second["left out"])
    step, saved = Step.load(file, CPU)
    assert (step.rank, step.world_size, step.steps_made) == (1, 2, 1)
    module = make_module()
    jobs.count_read(module.model)
    module.model.load_state_dict(saved)
    finding = step.finding(step.repeat(module))
    assert finding is not None
    assert (finding.micro_batch, finding.what) == (1, line.split(" in ")[0])


# A whole run, and scripts/replay.py


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The file of a run with a learning rate far too large, and the line that it ended with."""
    folder = tmp_path_factory.mktemp("failed")
    words = ["logger=none", "model.width=32", "model.ffn_width=48", "data.batch_size=16"]
    words += [f"data.corpus.{split}_examples=40" for split in ("train", "val", "test")]
    words += ["data.microbatch_tokens=128", "optimizer.lr=1e30", "hydra.run.dir=run"]
    done = run(folder, "train", *words)
    assert_refused(done, code=FAILURE)
    return folder / "run" / "nonfinite" / "step-2-rank-0.pt", done.stderr.strip()


@pytest.fixture(scope="module")
def replay() -> Callable[[Path], int]:
    """What the script does with a file; returns its exit code."""
    script = Path(__file__).parents[2] / "scripts" / "replay.py"
    return runpy.run_path(str(script))["replay"]


@pytest.mark.slow
def test_a_run_that_fails_before_its_first_checkpoint_keeps_what_a_replay_needs(
    failed: tuple[Path, str], replay: Callable[[Path], int], capsys: pytest.CaptureFixture[str]
):
    file, line = failed
    assert "see python scripts/replay.py run/nonfinite/step-2-rank-0.pt, lower optimizer.lr" in line
    where = re.search(r"at step 2: (.*) in micro-batch", line)
    assert where
    assert replay(file) == 0
    shown = capsys.readouterr().out
    assert where[1] in shown.replace("\n", " ")
    assert shown.count("◄ first") == 1
    assert re.search(r"\d{4}-\d\d-\d\d", shown)  # texts


@pytest.mark.slow
def test_a_replay_says_so_if_all_is_finite_now(
    failed: tuple[Path, str], replay: Callable[[Path], int], capsys: pytest.CaptureFixture[str]
):
    step, saved = Step.load(failed[0], CPU)
    mended = failed[0].with_name("mended.pt")
    step.save(mended, {name: tensor.clamp(-0.1, 0.1) for name, tensor in saved.items()}, None)
    assert replay(mended) == 1
    assert "everything is finite now, in all micro-batches" in capsys.readouterr().out


@pytest.mark.bad_input
@pytest.mark.slow
def test_what_is_no_file_of_the_run_is_refused(
    failed: tuple[Path, str], replay: Callable[[Path], int]
):
    step, _ = Step.load(failed[0], CPU)
    other = failed[0].with_name("other.pt")
    step.save(other, Bigrams().state_dict(), None)
    with pytest.raises(UserError, match="is of no step of this run's model"):
        replay(other)
    other.write_bytes(b"no file of torch")
    with pytest.raises(UserError, match="is of no step of this run's model"):
        replay(other)
    with pytest.raises(UserError, match=r"no file .* give one of RUN_DIR/nonfinite/"):
        replay(failed[0].with_name("step-9-rank-0.pt"))


def test_the_vocabulary_has_the_bad_token():
    assert BAD_ID < VOCABULARY
    assert not any((b.input_ids[b.is_real] == BAD_ID).any() for step in GOOD for b in step)
