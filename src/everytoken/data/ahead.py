"""Looks ahead: what steps to come need is fetched while others are made."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from everytoken.data.cache.shards import ShardStore
from everytoken.data.item import Item

MOST_STEPS = 1_000
MOST_EXAMPLES = 200_000
"""How far it looks, at most: both are in memory."""

FASTER = 4
"""Steps that it looks at for one that is made, until it is so far: the first waits for none."""


def ahead(
    steps: Iterable[Any], indices: Callable[[Any], list[int]], items: Sequence[Item]
) -> Iterable[Any]:
    """The same steps, and what they need is fetched before, if items have to be fetched.

    Args:
        steps: what a sampler yields.
        indices: of the examples of a step.
        items: examples of which.
    """
    return Ahead(steps, indices, items) if isinstance(items, ShardStore) else steps


class Ahead(Iterable[Any]):
    """Of steps to come the shards are asked for: half of what this machine may keep is for these.

    Args: as of `ahead`.
    """

    def __init__(
        self, steps: Iterable[Any], indices: Callable[[Any], list[int]], store: ShardStore
    ) -> None:
        self.steps = steps
        self.indices = indices
        self.store = store
        largest = max(file.size for file in store.of.shards)
        self.most_shards = max(1, store.source.shelf.most_bytes // (2 * largest))

    def __iter__(self) -> Iterator[Any]:
        waiting: deque[tuple[Any, list[int], int]] = deque()
        needed: Counter[int] = Counter()
        examples = 0
        for number, step in enumerate(self.steps):
            indices = self.indices(step)
            shards = self.store.shards_of(indices)
            self.store.expect(shard for shard in shards if shard not in needed)
            waiting.append((step, shards, len(indices)))
            needed.update(shards)
            examples += len(indices)
            is_first = number % FASTER == 0
            while is_first or (len(waiting) > 1 and self._is_far(len(waiting), examples, needed)):
                is_first = False
                made, shards, count = waiting.popleft()
                examples -= count
                needed.subtract(shards)
                needed = +needed  # without those of which none is left
                yield made
        yield from (step for step, *_ in waiting)

    def _is_far(self, steps: int, examples: int, shards: Counter[int]) -> bool:
        return steps > MOST_STEPS or examples > MOST_EXAMPLES or len(shards) > self.most_shards

    def __len__(self) -> int:
        return len(self.steps)  # pyright: ignore[reportArgumentType]: a TypeError if it has none
