"""Examples that are made when they are read: a million of them as texts would fill 500 MB."""

from collections.abc import Callable, Sequence
from typing import overload


class Drawn(Sequence[dict[str, str]]):
    """Examples, by number.

    Args:
        make: gives the example of a number, the same at each call.
        numbers: of the examples, in their order.
    """

    def __init__(self, make: Callable[[int], dict[str, str]], numbers: Sequence[int]) -> None:
        self.make = make
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> dict[str, str]: ...
    @overload
    def __getitem__(self, index: slice) -> "Drawn": ...
    def __getitem__(self, index: int | slice) -> "dict[str, str] | Drawn":
        if isinstance(index, slice):
            return Drawn(self.make, self.numbers[index])
        return self.make(int(self.numbers[index]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return repr(list(self))
