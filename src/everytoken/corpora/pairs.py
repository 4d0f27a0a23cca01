"""A corpus of pairs: two files whose lines go together, or two columns of one."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from os.path import commonprefix
from pathlib import Path

from everytoken.corpora.files import Paths, ending, find, lines, listed, state, unpacked
from everytoken.corpora.separated import Dialect
from everytoken.corpora.splits import FIRST, SPLITS, SplitSource, numbers
from everytoken.corpora.tables import TABLES, table
from everytoken.errors import UserError

Place = Mapping[str, Paths | None]
"""Where pairs are stored: "path", "source" and "target", see `Pairs`."""


class Pairs(SplitSource):
    """Source and target texts.

    A place has "path", files with columns (.jsonl, .json, .csv, .tsv, .parquet), and "source" and
    "target", names of two of these. Or its "path" is None, and "source" and "target" are text
    files: line n of one goes with line n of the other. All but .parquet may be compressed.

    Args:
        train: place of training pairs.
        val: place of validation pairs. If all of it is None, a share of `train` is taken; if it has
            a path only, columns are named as in `train`.
        test: the same for test pairs.
        val_fraction: see `SplitSource`, as for the others.
        test_fraction: share for test.
        seed: decides which pairs.
        separator: of .csv and .tsv, see `Dialect`, as for the others.
        quoted: whether quotes enclose values.
        column_names: of files without a line of them.

    Raises:
        UserError: files that aren't there, or places that are given in part.
    """

    fields = ("source", "target")
    own = "data.{split}_source and data.{split}_target"

    def __init__(
        self,
        train: Place,
        val: Place,
        test: Place,
        val_fraction: float,
        test_fraction: float,
        seed: int,
        separator: str | None = None,
        quoted: bool | None = None,
        column_names: Sequence[str] | None = None,
    ) -> None:
        self.dialect = Dialect(separator, quoted, column_names)
        self.columns: dict[str, tuple[str, ...]] = {}
        self.files: dict[str, list[tuple[Path, ...]]] = {}
        for split, place in zip(SPLITS, (train, val, test), strict=True):
            path, source, target = (place[key] for key in ("path", "source", "target"))
            prefix = "data." if split == "train" else f"data.{split}_"
            if path is not None:
                named = {k: train[k] if place[k] is None else place[k] for k in self.fields}
                if missing := [k for k, column in named.items() if column is None]:
                    raise UserError(f"data.{missing[0]} isn't given: it names a column of {path}")
                self.columns[split] = tuple(map(str, named.values()))
                self.files[split] = [(file,) for file in find(path, TABLES)]
            elif source is not None and target is not None:
                self.files[split] = _side_by_side(source, target, prefix)
            elif split == "train" or source is not None or target is not None:
                missing = "target" if target is None else "source"
                raise UserError(
                    f"{prefix}{missing} isn't given: a pair needs a source and a target"
                )
        if "train" in self.columns:
            self.own = "data.{split}_path"
        super().__init__(list(self.files), val_fraction, test_fraction, seed)

    def read(self, split: str) -> Iterator[dict[str, str]]:
        """All pairs that are stored of a split."""
        for files in self.files[split]:
            columns = self.columns.get(split)
            pairs = table(files[0], columns, self.dialect) if columns else _zipped(*files)
            yield from ({"source": source, "target": target} for source, target in pairs)

    def where(self, split: str) -> str:
        """The files of a split, in words."""
        return listed([file for files in self.files[split] for file in files])

    def unit(self, split: str) -> str:
        """Lines of two text files; else pairs, over all files."""
        is_plain = split not in self.columns and len(self.files[split]) == 1
        return "lines" if is_plain else "pairs"

    def fingerprint(self) -> str:
        """Changes with any of the files."""
        return str({split: [state(f) for f in files] for split, files in self.files.items()})


def _side_by_side(source: Paths, target: Paths, prefix: str) -> list[tuple[Path, ...]]:
    sources, targets = find(source, None), find(target, None)
    for file in (*sources, *targets):
        if ending(file) in TABLES:
            raise UserError(
                f"{file} has columns: give {prefix}path={file}, and name two of its columns by "
                f"{prefix}source and {prefix}target"
            )
    if len(sources) != len(targets):
        raise UserError(
            f"{prefix}source={source} has {len(sources)} files but {prefix}target={target} has "
            f"{len(targets)}: they must go together, in order of their names"
        )
    if isinstance(source, str | Path) and isinstance(target, str | Path):  # which give no order
        names = zip(_differing(sources), _differing(targets), strict=True)
        if apart := [i for i, (one, other) in enumerate(names) if one != other]:
            raise UserError(
                f"{sources[apart[0]]} would go with {targets[apart[0]]}, by the order of their "
                "names: name files that go together alike, as a.en and a.de, or give lists of files"
            )
    return list(zip(sources, targets, strict=True))


def _differing(files: Sequence[Path]) -> list[str]:
    """What is left of names without what is the same in all, at their beginnings and ends."""
    names = [unpacked(file) for file in files]
    for _ in range(2):  # their beginnings; then, backwards, their ends
        same = len(commonprefix(names))  # noqa: RUF071 (letters are meant)
        names = [name[same:][::-1] for name in names]
    return names


def _zipped(source: Path, target: Path) -> Iterator[tuple[str, str]]:
    counts = [0, 0]
    halves: list[int] = []  # lines without a partner, where the files may have come apart
    for left, right in zip_longest(lines(source), lines(target)):
        counts[0] += left is not None
        counts[1] += right is not None
        if left is not None and right is not None:
            if len(halves) <= FIRST and bool(left.strip()) != bool(right.strip()):
                halves.append(counts[0])
            yield left, right
    if counts[0] != counts[1]:
        blank = f" (lines that are blank in one only: {numbers(halves)})" if halves else ""
        raise UserError(
            f"{source} has {counts[0]} lines but {target} has {counts[1]}: line n of one must go "
            f"with line n of the other{blank}"
        )
