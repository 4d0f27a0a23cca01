"""A corpus that `scripts/prepare.py` has made tokens of: what it is, and where they are.

It has no texts any more. What a folder or an address holds:

    prepared.json           all that is below, and what it was made with; written last
    tokenizer.zip           the files of the tokenizer
    index-SPLIT.zip         lengths of all examples of a split, and what is beside their ids
    SPLIT/00000.zip, …      shards: examples in their order, as many in each but the last
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from everytoken.corpora.remote import find_remote
from everytoken.corpora.shelf import GIGABYTE, Kept, Shelf
from everytoken.errors import UserError, check_number, one_line

MANIFEST = "prepared.json"
FORM = 1
"""Of the manifest; another one needs another version of this file."""


@dataclass(frozen=True)
class PreparedSplit:
    """One split, as the manifest has it."""

    index: Kept
    examples: int
    shard_examples: int
    """Examples of each shard, but for the last."""
    shards: list[Kept]


class Prepared:
    """The corpus.

    Args:
        path: a folder, or an address.
        cache_dir: where shards of an address are kept on this machine.
        cache_gigabytes: most of them, in 10⁹ bytes; those of others with the same folder count too.

    Raises:
        UserError: nothing was prepared there, or not by this version; settings out of range.
        RunError: the server doesn't answer.
    """

    def __init__(self, path: str, cache_dir: str | None, cache_gigabytes: float) -> None:
        if not isinstance(path, str) or not path or "\0" in path:
            raise UserError(f"data.path must be a folder or an address, got {path!r}")
        check_number("data.cache_gigabytes", cache_gigabytes, float, low=0)
        self.path = path
        folder = None if cache_dir is None else Path(cache_dir)
        self.shelf = Shelf(path, folder, round(cache_gigabytes * GIGABYTE))
        self.manifest: dict[str, Any] = self._read()
        self.fields: tuple[str, ...] = tuple(self.manifest["fields"])
        """What examples consisted of."""
        largest = max(file.size for split in self.splits.values() for file in split.shards)
        if self.shelf.is_remote and largest > self.shelf.most_bytes:
            raise UserError(
                f"data.cache_gigabytes={cache_gigabytes:g} is less than one shard of {path}: raise "
                f"it to some times {largest / GIGABYTE:.2g}"
            )

    def _read(self) -> dict[str, Any]:
        url = self.shelf.url(MANIFEST)
        try:
            if self.shelf.is_remote:
                [file] = find_remote(url, lambda name: True)
                content = file.open().read()
            else:
                content = Path(url).expanduser().read_bytes()
        except OSError as error:
            raise self._nothing(error) from error
        except UserError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise self._nothing(error.__cause__) from error
            raise
        try:
            found: dict[str, Any] = json.loads(content)
            form = found["form"]
        except (ValueError, KeyError, TypeError) as error:
            told = f"{url} isn't what scripts/prepare.py writes: prepare it again"
            raise UserError(told) from error
        if form != FORM:
            raise UserError(f"{url} is of another version ({form}, not {FORM}): prepare it again")
        return found

    def _nothing(self, error: OSError) -> UserError:
        return UserError(
            f"nothing is prepared at {self.path} ({one_line(error)}): first python "
            f"scripts/prepare.py {self.path} and what you train with"
        )

    @property
    def mixture(self) -> dict[str, Any] | None:
        """Of a mix, the weights that its parts had."""
        return self.manifest["mixture"]

    @cached_property
    def tokenizer(self) -> Kept:
        """The file of the tokenizer."""
        return Kept(*self.manifest["tokenizer"], may_go=False)

    @cached_property
    def splits(self) -> dict[str, PreparedSplit]:
        """By name."""
        return {
            name: PreparedSplit(
                Kept(*split["index"], may_go=False),
                split["examples"],
                split["shard_examples"],
                [Kept(f"{name}/{n:05}.zip", *file) for n, file in enumerate(split["shards"])],
            )
            for name, split in self.manifest["splits"].items()
        }

    def part_in_words(self, split: str) -> str:
        """What the examples of a split are."""
        return f"what was prepared of {split} at {self.path}"

    def examples(self, split: str) -> Iterable[dict[str, str]]:
        """There are none: a UserError."""
        raise UserError(
            f"{self.path} has tokens and no texts: where texts are needed, name what it was "
            "prepared of; a mix is prepared as a whole"
        )
