"""Learning-rate schedules over a known number of optimizer steps.

A schedule is what its `_target_` makes of (optimizer, total_steps), the steps of the run; one of
torch's that doesn't take `total_steps` is made of the optimizer alone. It is stepped after each
optimizer step, with nothing.
"""

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from everytoken.errors import UserError

MakeSchedule = Callable[..., LRScheduler]


class Warmup(LambdaLR):
    """A schedule that first rises in a line to the optimizer's learning rates.

    How long it rises is kept with the run: if that goes on with another number of steps, a warm-up
    that is over stays over. Another `warmup_fraction` counts anew.

    Args:
        optimizer: its learning rates are the peak.
        total_steps: optimizer steps of the run.
        warmup_fraction: part of the steps that rise, 0 to 1.
        after: the rate as part of the peak, of the number of a step from 1, beyond the warm-up, and
            of the steps of the warm-up, at least 1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_fraction: float,
        after: Callable[[int, int], float],
    ) -> None:
        self.warmup_fraction = warmup_fraction
        self.warmup_steps = max(1, round(warmup_fraction * total_steps))

        def factor(step: int) -> float:
            warmup = self.warmup_steps
            if step < warmup:
                return (step + 1) / warmup
            return after(step + 1, warmup)

        super().__init__(optimizer, factor)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on, with the length of the warm-up that the run began with."""
        own = self.warmup_fraction, self.warmup_steps
        super().load_state_dict(state_dict)
        if self.warmup_fraction != own[0]:
            self.warmup_fraction, self.warmup_steps = own


def warmup_cosine(
    optimizer: Optimizer, total_steps: int, warmup_fraction: float, final_fraction: float
) -> LambdaLR:
    """Rise linearly, then fall along half a cosine (Loshchilov and Hutter 2017, eq. 5).

    Args:
        optimizer: its learning rate is the peak; so it is of all schedules here.
        total_steps: optimizer steps of the run.
        warmup_fraction: part of the steps that rise, 0 to 1.
        final_fraction: last learning rate as part of the peak, 0 to 1.
    """

    def fall(step: int, warmup: int) -> float:
        left = 0.5 * (1 + math.cos(math.pi * _part(step - warmup, total_steps - warmup)))
        return final_fraction + (1 - final_fraction) * left

    return Warmup(optimizer, total_steps, warmup_fraction, fall)


def linear(
    optimizer: Optimizer, total_steps: int, warmup_fraction: float, final_fraction: float
) -> LambdaLR:
    """Rise linearly, then fall linearly (Devlin et al. 2019, appendix A.2); see `warmup_cosine`."""

    def fall(step: int, warmup: int) -> float:
        return 1 - (1 - final_fraction) * _part(step - warmup, total_steps - warmup)

    return Warmup(optimizer, total_steps, warmup_fraction, fall)


def inverse_sqrt(optimizer: Optimizer, total_steps: int, warmup_fraction: float) -> LambdaLR:
    """Rise linearly, then fall as one over the root of the step (Vaswani et al. 2017, eq. 3).

    How long the run is doesn't matter after the warm-up. See `warmup_cosine`.
    """
    return Warmup(
        optimizer, total_steps, warmup_fraction, lambda step, warmup: (warmup / step) ** 0.5
    )


def warmup_stable_decay(
    optimizer: Optimizer,
    total_steps: int,
    warmup_fraction: float,
    decay_fraction: float,
    final_fraction: float,
    decay_shape: Literal["linear", "sqrt"],
) -> LambdaLR:
    """Rise linearly, stay, and fall at the end (Hu et al. 2024, section 4; "WSD").

    A run that goes on with more steps from a checkpoint before the fall is as if it had been so
    long from the first, but for the warm-up, which stays as it was.

    Args:
        optimizer, total_steps, warmup_fraction, final_fraction: see `warmup_cosine`.
        decay_fraction: part of the steps that fall, at most those that don't rise.
        decay_shape: "linear", or "sqrt": as one minus the root of the part of the fall that was
            made, which falls fast at first (Hägele et al. 2024, section 3).
    """
    decay_steps = round(decay_fraction * total_steps)

    def fall(step: int, warmup: int) -> float:
        falling = min(decay_steps, total_steps - warmup)
        made = _part(step - total_steps + falling, falling)
        return 1 - (1 - final_fraction) * (made if decay_shape == "linear" else made**0.5)

    return Warmup(optimizer, total_steps, warmup_fraction, fall)


def constant(optimizer: Optimizer, total_steps: int, warmup_fraction: float = 0.0) -> LambdaLR:
    """Rise linearly, then stay; see `warmup_cosine`."""
    return Warmup(optimizer, total_steps, warmup_fraction, lambda step, warmup: 1.0)


def _part(steps: int, of: int) -> float:
    """From 0 to 1, whatever the number of steps."""
    return min(1.0, max(0, steps) / max(1, of))


def schedule_of(make: MakeSchedule, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """The schedule of a run.

    Raises:
        UserError: one that follows a metric, or that gives all groups one rate although some have a
            factor of their own.
    """
    parameters = inspect.signature(make).parameters
    takes_steps = "total_steps" in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
    schedule = make(optimizer, **({"total_steps": total_steps} if takes_steps else {}))
    if not isinstance(schedule, LRScheduler) or isinstance(schedule, ReduceLROnPlateau):
        raise UserError(
            f"scheduler: {type(schedule).__name__} can't be stepped after each step without a "
            "metric: use scheduler=warmup_cosine, scheduler=constant or another of torch's"
        )
    peaks = [group["initial_lr"] / group.get("lr_factor", 1.0) for group in _moving(optimizer)]
    if any(not math.isclose(peak, peaks[0], rel_tol=1e-9) for peak in peaks):
        raise UserError(
            f"scheduler: {type(schedule).__name__} doesn't keep the lr_factor of parameter_groups: "
            "use scheduler=warmup_cosine or another that multiplies optimizer.lr"
        )
    return schedule


def _moving(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Its groups, if some have a factor; without those whose factor is 0."""
    groups = optimizer.param_groups
    has_factor = any("lr_factor" in group for group in groups)
    return [g for g in groups if g.get("lr_factor") != 0] if has_factor else []


def extension(
    make: MakeSchedule, schedule: LRScheduler, before: int, now: int
) -> tuple[int, float, float] | None:
    """What another number of steps makes of a schedule that goes on, where it says it by a factor.

    Args:
        make: makes a schedule as this one.
        schedule: at the step at which the run goes on.
        before: optimizer steps of the run so far.
        now: those that it shall have.

    Returns:
        The number of a step to come that gets another learning rate, that which it would have got,
        and that which it gets; None if all of them stay as they were.
    """
    if not isinstance(schedule, LambdaLR) or before == now:
        return None
    optimizer = copy.copy(schedule.optimizer)  # a schedule sets the rates of its optimizer
    optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
    former = schedule_of(make, optimizer, before)
    assert isinstance(former, LambdaLR)
    former.load_state_dict(schedule.state_dict())
    step = schedule.last_epoch
    for each in (step, max(step, min(before, now) - 1)):
        old, new = (s.base_lrs[0] * s.lr_lambdas[0](each) for s in (former, schedule))
        if not math.isclose(old, new, rel_tol=1e-9):
            return each + 1, float(old), float(new)
    return None
