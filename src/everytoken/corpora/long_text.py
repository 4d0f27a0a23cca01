"""A text that stays where it is, and is read block by block: a file that memory doesn't hold."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

LONG_CHARACTERS = 1_000_000
"""Texts of more are long: to encode one at once takes 300 bytes for each of them."""


@dataclass(frozen=True)
class Extent:
    """How much a text is."""

    characters: int
    size: int
    """In bytes of UTF-8."""
    is_blank: bool
    digest: bytes
    """Equal for equal texts."""


class LongText:
    """A text, or a part of one, that isn't in memory.

    Args:
        read: gives it block by block, anew at each call.
        begin: the first of its characters.
        end: the one after the last; None for all.
    """

    def __init__(
        self, read: Callable[[], Iterator[str]], begin: int = 0, end: int | None = None
    ) -> None:
        self.read = read
        self.begin = begin
        self.end = end

    def blocks(self) -> Iterator[str]:
        """All of it, part by part."""
        place = 0
        for block in self.read():
            part = block[
                max(0, self.begin - place) : None if self.end is None else self.end - place
            ]
            place += len(block)
            if part:
                yield part
            if self.end is not None and place >= self.end:
                return

    @cached_property
    def extent(self) -> Extent:
        """How much it is: it is read for that, once."""
        characters, size, blank = 0, 0, True
        hasher = blake2b(digest_size=16)
        for block in self.blocks():
            encoded = block.encode()
            hasher.update(encoded)
            characters, size = characters + len(block), size + len(encoded)
            blank = blank and block.isspace()
        return Extent(characters, size, blank, hasher.digest())

    def part(self, begin: int, end: int) -> "str | LongText":
        """From one of its characters up to another; in memory if that isn't long."""
        part = LongText(self.read, self.begin + begin, self.begin + end)
        return part if end - begin > LONG_CHARACTERS else "".join(part.blocks())

    def __len__(self) -> int:
        return self.extent.characters

    def isspace(self) -> bool:
        """Whether there is nothing to be seen in it."""
        return self.extent.is_blank

    def __hash__(self) -> int:
        return hash(self.extent)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LongText) and self.extent == other.extent


def encoded_blocks(value: Any) -> Iterator[bytes]:
    """UTF-8 of a text, long or not; what stands for ids that are one."""
    if isinstance(value, LongText):
        yield from (block.encode() for block in value.blocks())
    else:
        yield value.encode()
