"""What ids mean, for the eye: tokens of a text, or classes."""

from collections.abc import Iterable, Sequence
from typing import Protocol


class Names(Protocol):
    """Shows ids."""

    @property
    def hidden(self) -> Sequence[int]:
        """Ids that `show` leaves out."""
        ...

    def show(self, ids: Iterable[int]) -> str:
        """What ids say together."""
        ...

    def name(self, id_: int) -> str:
        """What one is called."""
        ...


class Labels:
    """Names of classes.

    Args:
        names: by id.
    """

    hidden = ()

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def show(self, ids: Iterable[int]) -> str:
        """Their names, one after the other."""
        return " ".join(map(self.name, ids))

    def name(self, id_: int) -> str:
        """The name of a class; a number of what is none."""
        return self.names[id_] if id_ < len(self.names) else f"#{id_}"
