"""All that callbacks use of torch which it doesn't document.

Checked with torch 2.13. tests/callbacks/test_upstream.py says what another version has changed.
"""

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler


def set_last_lr(scheduler: LRScheduler, rates: list[float | Tensor]) -> None:
    """Set what `scheduler.get_last_lr()` returns until the next step: `LRScheduler._last_lr`.

    `scheduler.step()` would set it, and count a step more in the scheduler's state.
    """
    scheduler._last_lr = rates
