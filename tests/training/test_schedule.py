"""Learning rates: up in a line, then level, or down as their name says."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from everytoken.errors import UserError
from everytoken.training.schedule import (
    constant,
    extension,
    inverse_sqrt,
    linear,
    schedule_of,
    warmup_cosine,
    warmup_stable_decay,
)

PEAK = 4.0
MakeSchedule = Callable[..., LRScheduler]

cosine = partial(warmup_cosine, final_fraction=0.25)
stable = partial(warmup_stable_decay, decay_fraction=0.5, final_fraction=0.25, decay_shape="linear")
SCHEDULES = {
    "warmup_cosine": cosine,
    "constant": constant,
    "linear": partial(linear, final_fraction=0.25),
    "inverse_sqrt": inverse_sqrt,
    "warmup_stable_decay": partial(stable, decay_fraction=0.0),
}
every = pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES.keys())


def rates(make: MakeSchedule, steps: int, warmup_fraction: float) -> list[float]:
    """Learning rate of each step of a run, and the one after the last."""
    optimizer: Optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = make(optimizer, total_steps=steps, warmup_fraction=warmup_fraction)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*found, optimizer.param_groups[0]["lr"]]


@every
def test_the_rise_is_a_line_to_the_peak(make: MakeSchedule) -> None:
    assert rates(make, 10, 0.4)[:4] == [1.0, 2.0, 3.0, 4.0]


def test_constant_stays_at_the_peak() -> None:
    assert rates(constant, 6, 0.5) == pytest.approx([4 / 3, 8 / 3, 4, 4, 4, 4, 4])


def test_the_line_ends_at_the_final_fraction() -> None:
    assert rates(SCHEDULES["linear"], 10, 0.4)[4:10] == pytest.approx([3.5, 3, 2.5, 2, 1.5, 1])


def test_one_over_the_root_doesnt_depend_on_the_number_of_steps() -> None:
    assert rates(inverse_sqrt, 64, 1 / 16)[3::4] == pytest.approx(
        [PEAK * (4 / step) ** 0.5 for step in range(4, 65, 4)]
    )
    short, long = (rates(inverse_sqrt, steps, 8 / steps) for steps in (20, 40))
    assert short == long[: len(short)]


def test_what_stays_falls_in_its_last_part() -> None:
    assert rates(stable, 10, 0.2)[:10] == pytest.approx([2, 4, 4, 4, 4, 3.4, 2.8, 2.2, 1.6, 1])
    root = partial(stable, decay_shape="sqrt", final_fraction=0.0)
    assert rates(root, 8, 0.0)[4:8] == pytest.approx([4 - 4 * (i / 4) ** 0.5 for i in (1, 2, 3, 4)])
    assert rates(root, 8, 0.75)[6:8] == pytest.approx(
        [4 - 4 * 0.5**0.5, 0]
    )  # no longer than is left


def test_the_cosine_ends_at_the_final_fraction() -> None:
    last_step = rates(cosine, 10, 0.4)[9]
    assert last_step == pytest.approx(1.0)
    assert rates(cosine, 4, 0.1)[3] == pytest.approx(1.0)  # in a short run too
    assert rates(partial(warmup_cosine, final_fraction=0.0), 10, 0.4)[9] == pytest.approx(0.0)


def test_the_peak_is_held_for_one_step() -> None:
    found = rates(cosine, 10, 0.4)
    assert [rate for rate in found if rate > 3.9] == [4.0]


def test_the_cosine_may_stay_at_the_peak() -> None:
    assert rates(partial(warmup_cosine, final_fraction=1.0), 10, 0.4)[3:] == [4.0] * 8


def test_the_fall_is_half_a_cosine() -> None:
    fall = rates(cosine, 1200, 1 / 6)[200:]
    # cos 0, 60, 90, 120 and 180 degrees, between 1.0 and 4.0.
    assert [fall[i] for i in (0, 333, 500, 667, 999)] == pytest.approx(
        [4.0, 3.25, 2.5, 1.75, 1.0], abs=0.01
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.floats(0, 1), st.floats(0, 1))
def test_rates_rise_and_then_fall_within_their_bounds(
    steps: int, warmup_fraction: float, final_fraction: float
) -> None:
    make = partial(warmup_cosine, final_fraction=final_fraction)
    found = rates(make, steps, warmup_fraction)
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert found[top] == pytest.approx(PEAK)
    assert top == max(1, round(warmup_fraction * steps)) - 1
    assert min(found[top:]) >= final_fraction * PEAK - 1e-9


@every
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.1, 1.0])
def test_a_run_of_one_step_is_at_the_peak(make: MakeSchedule, warmup_fraction: float) -> None:
    assert rates(make, 1, warmup_fraction)[0] == PEAK


@every
def test_without_warmup_the_first_step_is_at_the_peak(make: MakeSchedule) -> None:
    assert rates(make, 10, 0.0)[0] == PEAK


@every
def test_warmup_may_last_the_whole_run(make: MakeSchedule) -> None:
    assert rates(make, 4, 1.0)[:4] == [1.0, 2.0, 3.0, 4.0]


def test_groups_keep_the_ratio_of_their_rates() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = SGD([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 8.0}], lr=4.0)
    cosine(optimizer, total_steps=10, warmup_fraction=0.4)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 2.0]


def optimizer_of_one() -> Optimizer:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)


@pytest.mark.parametrize(
    "make",
    [
        partial(cosine, warmup_fraction=0.1),
        partial(OneCycleLR, max_lr=1.0),  # takes total_steps
        partial(CosineAnnealingLR, T_max=5),  # takes none
        partial(StepLR, step_size=2),
    ],
)
def test_torchs_schedules_are_made_as_ours_are(make: MakeSchedule) -> None:
    optimizer = optimizer_of_one()
    schedule = schedule_of(make, optimizer, total_steps=5)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert schedule.last_epoch == 5
    assert getattr(schedule, "total_steps", 5) == 5


@pytest.mark.bad_input
def test_a_schedule_that_follows_a_metric_is_refused() -> None:
    with pytest.raises(UserError, match=r"^scheduler: ReduceLROnPlateau .* use scheduler=warmup"):
        schedule_of(ReduceLROnPlateau, optimizer_of_one(), total_steps=5)


def test_a_schedule_keeps_a_groups_factor_or_is_refused() -> None:
    def optimizer() -> Optimizer:
        parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
        groups = [
            {"params": p, "lr": 4.0 * f, "lr_factor": f}
            for p, f in zip(parameters, (1, 0.5, 0), strict=True)
        ]
        return SGD(groups, lr=4.0)

    for make in SCHEDULES.values():
        schedule = schedule_of(partial(make, warmup_fraction=0.5), optimizer(), total_steps=4)
        assert schedule.get_last_lr() == [2.0, 1.0, 0.0]
    with pytest.raises(
        UserError, match=r"OneCycleLR doesn't keep the lr_factor of parameter_groups"
    ):
        schedule_of(partial(OneCycleLR, max_lr=1.0), optimizer(), total_steps=5)


def test_an_extension_is_told_with_the_first_rate_that_differs() -> None:
    make = partial(cosine, warmup_fraction=0.0)
    schedule = schedule_of(make, optimizer_of_one(), total_steps=20)
    assert extension(make, schedule, before=20, now=20) is None
    step, before, after = extension(make, schedule, before=10, now=20) or (0, 0.0, 0.0)
    assert step == 10  # the first is at the peak in both
    assert before == pytest.approx(1.0)
    assert after > 2.5
