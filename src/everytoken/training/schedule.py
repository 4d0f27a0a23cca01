"""Learning-rate schedules over a known number of optimizer steps.

A schedule is what its `_target_` makes of (optimizer, total_steps), the steps of the run; one of
torch's that doesn't take `total_steps` is made of the optimizer alone. It is stepped after each
optimizer step, with nothing.
"""

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

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
        after: the rate as part of the peak, of the part of the other steps that were made, 0 to 1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_fraction: float,
        after: Callable[[float], float],
    ) -> None:
        self.warmup_fraction = warmup_fraction
        self.warmup_steps = max(1, round(warmup_fraction * total_steps))

        def factor(step: int) -> float:
            warmup = self.warmup_steps
            if step < warmup:
                return (step + 1) / warmup
            return after(min(1.0, (step + 1 - warmup) / max(1, total_steps - warmup)))

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
        optimizer: its learning rate is the peak.
        total_steps: optimizer steps of the run.
        warmup_fraction: part of the steps that rise, 0 to 1.
        final_fraction: last learning rate as part of the peak, 0 to 1.
    """

    def fall(progress: float) -> float:
        return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))

    return Warmup(optimizer, total_steps, warmup_fraction, fall)


def constant(optimizer: Optimizer, total_steps: int, warmup_fraction: float = 0.0) -> LambdaLR:
    """Rise linearly, then stay.

    Args:
        optimizer: its learning rate is the peak.
        total_steps: optimizer steps of the run.
        warmup_fraction: part of the steps that rise, 0 to 1.
    """
    return Warmup(optimizer, total_steps, warmup_fraction, lambda progress: 1.0)


def schedule_of(make: MakeSchedule, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """The schedule of a run.

    Raises:
        UserError: one that follows a metric.
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
    return schedule


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
