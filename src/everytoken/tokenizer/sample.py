"""As many texts of a corpus as a tokenizer needs to be learned from."""

import random
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

MEGABYTE = 1_000_000


class Sample:
    """Texts of at most so many megabytes in UTF-8, drawn among all with the same chance for each.

    They are in memory, in their order; if all texts are fewer, they are all of them. Texts that
    are added at the end of a corpus change nothing for the draw of others.

    Args:
        texts: are read once.
        megabytes: of the sample; None for all texts, which then aren't kept.
    """

    def __init__(self, texts: Iterable[str], megabytes: float | None) -> None:
        self.texts = texts
        self.megabytes = megabytes
        self.read = self.kept = 0
        """Texts."""

    def __iter__(self) -> Iterator[str]:
        if self.megabytes is None:
            yield from self.texts
            return
        kept: list[tuple[float, int, int, str]] = []  # the largest number drawn is the first to go
        room, chance, draw = self.megabytes * MEGABYTE, 1.0, random.Random(0).random
        for text in self.texts:
            self.read += 1
            if (drawn := draw()) >= chance:
                continue
            size = len(text.encode())
            heappush(kept, (-drawn, self.read, size, text))
            room -= size
            while room < 0:
                drawn, _, size, _ = heappop(kept)
                chance = -drawn
                room += size
        self.kept = len(kept)
        yield from (text for _, text in sorted((number, text) for _, number, _, text in kept))

    def __str__(self) -> str:
        """What it is of what; "" of all texts."""
        if self.kept == self.read:
            return ""
        return f"{self.megabytes:g} MB, {self.kept:,} of {self.read:,} texts, drawn at random"
