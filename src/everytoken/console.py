"""What the user reads: one console, on which rank 0 speaks for all."""

from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.console import Console, RenderableType

console = Console(highlight=False, markup=False, soft_wrap=True)


@rank_zero_only
def say(message: RenderableType) -> None:
    """Print, on rank 0 only."""
    console.print(message)
