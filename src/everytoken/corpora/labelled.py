"""A corpus of texts with classes: columns of files."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from everytoken.corpora.columns import check_text, packed, pick, value_of
from everytoken.corpora.file_source import FileSource
from everytoken.corpora.files import Paths
from everytoken.corpora.separated import Dialect
from everytoken.corpora.tables import TABLES, rows
from everytoken.errors import UserError

FEW = 20
"""So many classes may have hardly an example each."""

KINDS = {str: "a word", int: "a number"}


class Labelled(FileSource):
    """Texts, one or two in each row, with their class, of .jsonl, .json, .csv, .tsv and .parquet.

    A label is a text, a whole number, or true or false; a list has several. Rows whose text or
    label is blank are left out and counted.

    Args:
        train: files of training rows.
        val: files of validation rows; None for a share of `train`, in which the first row of each
            label stays.
        test: the same for test rows.
        text: the column of the text.
        second: the column of a second text; None if there is one.
        label: the column of the class.
        names: what labels that are numbers are called, in their order.
        most_classes: more different labels than this look like no classes.
        val_fraction: see `SplitSource`, as for the others.
        test_fraction: share for test.
        seed: decides which rows.
        separator: of .csv and .tsv, see `Dialect`, as for the others.
        quoted: whether quotes enclose values.
        column_names: of files without a line of them.

    Raises:
        UserError: files that aren't there or that can't be read.
    """

    fields = ("text", "second", "labels")
    blank = "without a text or a label"

    def __init__(
        self,
        train: Paths,
        val: Paths | None,
        test: Paths | None,
        text: str,
        second: str | None,
        label: str,
        names: Sequence[str] | None,
        most_classes: int,
        val_fraction: float,
        test_fraction: float,
        seed: int,
        separator: str | None = None,
        quoted: bool | None = None,
        column_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(train, val, test, TABLES, val_fraction, test_fraction, seed)
        columns = {"text": text, "second": second}
        self.columns = {field: str(name) for field, name in columns.items() if name is not None}
        self.fields = (*self.columns, "labels")
        self.label = str(label)
        self.names = None if names is None else [*map(str, names)]
        self.most_classes = most_classes
        self.dialect = Dialect(separator, quoted, column_names)
        self._kinds: dict[type, str] = {}

    def read(self, split: str) -> Iterator[dict[str, str]]:
        """All rows that are stored of a split."""
        known: set[str] = set()
        count = 0
        for file in self.files[split]:
            for place, row in rows(file, self.dialect):
                labels = self._labels(value_of(row, self.label, place), place)
                known.update(labels)
                count += 1
                if split == "train" and len(known) > self.most_classes:
                    raise UserError(
                        f"{place}: with {labels[-1]!r:.40}, column {self.label!r} has more than "
                        f"{self.most_classes:,} labels, which look like no classes: name the "
                        "column of the class by data.label, or raise data.most_classes"
                    )
                texts = {f: pick(row, column, place) for f, column in self.columns.items()}
                has_label = any(label.strip() for label in labels)
                yield texts | {"labels": packed(labels) if has_label else ""}
        if split == "train" and len(known) > max(FEW, count / 2):
            raise UserError(
                f"column {self.label!r} of {self.where(split)} has {len(known):,} different labels "
                f"in {count:,} rows, which look like no classes: name the column by data.label"
            )

    def part(self, split: str, texts: dict[str, str], key: int) -> dict[str, str] | None:
        """As `SplitSource` says; but training has an example of each label."""
        if key in self._kept:
            return texts if split == "train" else None
        return super().part(split, texts, key)

    @cached_property
    def _kept(self) -> set[int]:
        """Hashes of the first example of each label."""
        first: dict[str, int] = {}
        for texts in self.read("train"):
            if texts["labels"] not in first:
                first[texts["labels"]] = self._hash(texts)
        return {*first.values()}

    def _labels(self, value: Any, place: str) -> list[str]:
        values = value if isinstance(value, list) else [value]
        found = [self._name(one, place) for one in values]
        return [name for i, name in enumerate(found) if name not in found[:i]]

    def _name(self, value: Any, place: str) -> str:
        what = f"the label in column {self.label!r}"
        if value is None:
            raise UserError(f"{place}: {what} is null: fill it, or leave the row out")
        kind = str if isinstance(value, bool) else type(value)
        if kind not in KINDS:
            raise UserError(f"{place}: {what} is {value!r:.40}: give a word or a whole number")
        self._kinds.setdefault(kind, place)
        if len(self._kinds) > 1:
            [(other, at)] = [pair for pair in self._kinds.items() if pair[0] is not kind]
            raise UserError(
                f"{place}: {what}, {value!r:.40}, is {KINDS[kind]}, and in {at} it is "
                f"{KINDS[other]}: write all in one way"
            )
        name = str(value).lower() if isinstance(value, bool) else str(value)
        check_text(name, what, place)
        if self.names is None or not name.strip() or name in self.names:
            return name
        if not name.isdecimal() or int(name) >= len(self.names):
            raise UserError(
                f"{place}: {what} is {name!r:.40}, and data.names has {len(self.names)} names, of "
                f"0 to {len(self.names) - 1}: {', '.join(self.names)}"
            )
        return self.names[int(name)]

    def _hash(self, texts: Mapping[str, str]) -> int:
        """Of the texts alone: one that has two labels is in one split, too."""
        return super()._hash({field: texts[field] for field in self.columns})

    def unit(self, split: str) -> str:
        """Rows, over all files."""
        return "rows"
