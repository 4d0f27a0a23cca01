"""What a token may look at in its own sequence."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Visibility:
    """Which tokens of its sequence a token may look at."""

    causal: bool
    """True for itself and earlier ones only."""
    window: int | None
    """How many positions away it may look, to each side; None for no limit."""

    def reach(self, longest: int) -> tuple[int, int]:
        """Positions that it may look to the left and to the right, `longest` if without limit."""
        window = longest if self.window is None else self.window
        return window, 0 if self.causal else window

    def visible(
        self,
        queries: range,
        keys: range,
        device: torch.device | None = None,
        prefix_lengths: Tensor | None = None,
    ) -> Tensor:
        """(queries, keys) bool: True where the one position may look at the other.

        Where there are prefixes (B,), whose positions look at each other to both sides, it is
        (B, 1, queries, keys).
        """
        left, right = self.reach(queries.stop + keys.stop)
        query = torch.arange(queries.start, queries.stop, device=device)[:, None]
        key = torch.arange(keys.start, keys.stop, device=device)
        seen = (key >= query - left) & (key <= query + right)
        if prefix_lengths is None:
            return seen
        end = prefix_lengths[:, None, None, None]
        return seen | ((query < key) & (key <= query + left) & (key < end))
