"""A corpus of texts with classes: columns of files."""

from ast import literal_eval
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from everytoken.corpora.class_names import Row, chosen, named_rows
from everytoken.corpora.columns import check_text, packed, pick, value_of
from everytoken.corpora.file_source import FileSource
from everytoken.corpora.files import Paths
from everytoken.corpora.separated import Dialect
from everytoken.corpora.tables import TABLES
from everytoken.errors import UserError, check_number

FEW = 20
"""So many classes may have hardly an example each."""

BLANK = "without a text or a label"

KINDS = {str: "a word", int: "a number"}


class LabelledRows:
    """How a row with columns holds a text or two, and their class.

    A label is a text, a whole number, or true or false; a list has several, or none.

    Args:
        text: the column of the text.
        second: the column of a second text; None if there is one.
        label: the column of the class, or of the list of classes.
        names: what labels that are numbers are called, in their order; None for what who wrote the
            rows calls them, or for the numbers.
        most_classes: more different labels than this look like no classes.
        label_separator: what stands between several labels in one text, which then may be blank:
            it has none. None if a text is one label.

    Raises:
        UserError: settings that name no column, no classes, no names.
    """

    def __init__(
        self,
        text: str,
        second: str | None,
        label: str,
        names: Sequence[str] | None,
        most_classes: int,
        label_separator: str | None = None,
    ) -> None:
        for key, column in {"text": text, "label": label}.items():
            if column is None:
                raise UserError(f"data.{key} must name a column, got None")
        check_number("data.most_classes", most_classes, int, low=1)
        self.label_separator = label_separator
        columns = {"text": text, "second": second}
        self.columns = {field: str(name) for field, name in columns.items() if name is not None}
        self.fields = (*self.columns, "labels")
        self.label = str(label)
        self.names = chosen(names)
        self.most_classes = most_classes
        self._kinds: dict[type, str] = {}

    def read(self, rows: Iterable[Row], training: str | None) -> Iterator[dict[str, str]]:
        """The example that each row holds; a blank label is none.

        Args:
            rows: of a split.
            training: where they are, in words, if they are those of training: their labels are all
                that there may be.

        Raises:
            UserError: when it is reached: a row without the columns, labels that look like none.
        """
        known: set[str] = set()
        count = 0
        for place, row, names in rows:
            own = self.names or names.get(self.label)
            labels = self._labels(value_of(row, self.label, place), own, place)
            known.update(labels)
            count += 1
            if training is not None and len(known) > self.most_classes:
                raise UserError(
                    f"{place}: with {labels[-1]!r:.40}, column {self.label!r} has more than "
                    f"{self.most_classes:,} labels, which look like no classes: name the "
                    "column of the class by data.label, or raise data.most_classes"
                )
            texts = {f: pick(row, column, place) for f, column in self.columns.items()}
            is_blank = labels and not any(label.strip() for label in labels)
            yield texts | {"labels": "" if is_blank else packed(labels)}
        if training is not None and len(known) > max(FEW, count / 2):
            raise UserError(
                f"column {self.label!r} of {training} has {len(known):,} different labels "
                f"in {count:,} rows, which look like no classes: name the column by data.label"
            )

    def _labels(self, value: Any, names: Sequence[str] | None, place: str) -> list[str]:
        values = value if isinstance(value, list) else [value]
        if isinstance(value, str) and _is_list(value):
            raise UserError(
                f"{place}: the label in column {self.label!r} is {value!r:.40}, a list that was "
                "written as a text: write labels with a separator between them, as a|b, and set "
                "data.label_separator='|'; or write .jsonl"
            )
        if isinstance(value, str) and self.label_separator is not None:
            parts = (part.strip() for part in value.split(self.label_separator))
            values = [part for part in parts if part]
        return sorted({self._name(one, names, place) for one in values})

    def _name(self, value: Any, names: Sequence[str] | None, place: str) -> str:
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
        if names is None or not name.strip() or name in names:
            return name
        if name == "-1":
            raise UserError(
                f"{place}: {what} is -1, which stands for no label: leave such rows, or their "
                "split, out"
            )
        if not name.isdecimal() or int(name) >= len(names):
            raise UserError(
                f"{place}: {what} is {name!r:.40}, and data.names has {len(names)} names, of "
                f"0 to {len(names) - 1}: {', '.join(names)}"
            )
        return names[int(name)]


def _is_list(text: str) -> bool:
    """Whether a text is what Python or JSON writes for a list of words or of numbers."""
    if not (text[:1] == "[" and text[-1:] == "]"):
        return False
    try:
        return isinstance(literal_eval(text), list)
    except (ValueError, SyntaxError):
        return False


class Labelled(FileSource):
    """Texts, one or two in each row, with their class, of .jsonl, .json, .csv, .tsv and .parquet.

    A label is a text, a whole number, or true or false; a list has several, or none. Rows whose
    text or label is blank are left out and counted.

    Args:
        train: files of training rows.
        val: files of validation rows; None for a share of `train`, in which the first row of each
            label stays.
        test: the same for test rows.
        text: the column of the text.
        second: the column of a second text; None if there is one.
        label: the column of the class, or of the list of classes.
        names: what labels that are numbers are called, in their order.
        most_classes: more different labels than this look like no classes.
        label_separator: what stands between several labels in one text, which then may be blank:
            it has none. None if a text is one label.
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
    blank = BLANK
    kept = "labels"

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
        label_separator: str | None = None,
    ) -> None:
        super().__init__(train, val, test, TABLES, val_fraction, test_fraction, seed)
        self.dialect = Dialect(separator, quoted, column_names)
        self.rows = LabelledRows(text, second, label, names, most_classes, label_separator)
        self.fields = self.rows.fields

    def read(self, split: str) -> Iterator[dict[str, str]]:
        """All rows that are stored of a split."""
        found = chain.from_iterable(named_rows(file, self.dialect) for file in self.files[split])
        return self.rows.read(found, self.where(split) if split == "train" else None)

    def unit(self, split: str) -> str:
        """Rows, over all files."""
        return "rows"
