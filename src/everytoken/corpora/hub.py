"""A corpus of the Hugging Face hub, or of a folder laid out like one of its repositories."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from everytoken.corpora.chats import ChatRows
from everytoken.corpora.labelled import BLANK, LabelledRows
from everytoken.corpora.repository import repository
from everytoken.corpora.separated import Dialect
from everytoken.corpora.splits import SPLITS, SplitSource
from everytoken.corpora.tagged import TaggedRows
from everytoken.errors import UserError


class Hub(SplitSource):
    """A dataset that `datasets` finds and fetches. Its files stay on disk and are read as streams.

    What the task needs of an example says how rows are read: as texts, conversations, words with
    tags, or texts with classes.

    Args:
        name: of a repository on the hub, or a folder.
        config: which of its configurations; None for the only one.
        train: the dataset's name of the training split.
        val: the same of the validation split; None for a share of `train`.
        test: the same of the test split.
        columns: name of the column of each field; "a.b" may stand for what a holds under b.
        fields: what an example consists of.
        val_fraction: see `SplitSource`, as for the others.
        test_fraction: share for test.
        seed: decides which examples.
        separator: of .csv and .tsv, see `Dialect`, as for the others.
        quoted: whether quotes enclose values.
        column_names: of files without a line of them.
        rows: how rows are read where they aren't read as texts: "form", see `ChatRows`; "word",
            "tag" and "split", see `TaggedRows`; "second", "label", "label_separator" and
            "most_classes", see `LabelledRows`; and "names" of both.

    Raises:
        UserError: no such dataset, split or column; no connection.
    """

    own = "data.{split}_split"

    def __init__(
        self,
        name: str,
        config: str | None,
        train: str,
        val: str | None,
        test: str | None,
        columns: Mapping[str, str],
        fields: Sequence[str],
        val_fraction: float,
        test_fraction: float,
        seed: int,
        separator: str | None = None,
        quoted: bool | None = None,
        column_names: Sequence[str] | None = None,
        rows: Mapping[str, Any] | None = None,
    ) -> None:
        own = dict(zip(SPLITS, (train, val, test), strict=True))
        self.names = {split: str(name) for split, name in own.items() if name is not None}
        super().__init__(list(self.names), val_fraction, test_fraction, seed)
        self.described = f"{name} ({config})" if config is not None else str(name)
        self.fields = tuple(fields)
        for field in fields:
            if field in columns and columns[field] is None:
                raise UserError(f"data.{field} must name a column, got None")
        self.columns = [str(columns[field]) for field in fields if field in columns]
        self.chats = self.tagged = self.labelled = None
        how = rows or {}
        if "messages" in fields:
            self.chats = ChatRows(how["form"])
        elif "tags" in fields:
            self.kept = "tags"
            self.tagged = TaggedRows(*(how[key] for key in ("word", "tag", "names", "split")))
        elif "labels" in fields:
            keys = ("second", "label", "names", "most_classes", "label_separator")
            self.labelled = LabelledRows(columns["text"], *(how[key] for key in keys))
            self.fields = self.labelled.fields
            self.blank, self.kept = BLANK, "labels"
        self.repository = repository(
            str(name),
            None if config is None else str(config),
            list(self.names.values()),
            Dialect(separator, quoted, column_names),
        )
        for part, stored in self.names.items():
            if stored not in self.repository.splits:
                raise UserError(
                    f"data.name={name} has no split {stored!r}; it has "
                    f"{', '.join(self.repository.splits)}: give data.{part}_split=NAME"
                    + (f", or null to hold out data.{part}_fraction" if part != "train" else "")
                )

    def read(self, split: str) -> Iterator[dict[str, str]]:
        """All examples that are stored of a split."""
        stored = self.names[split]
        if reader := self.chats or self.tagged:
            return reader.read(self.repository.records(stored))
        if self.labelled:
            training = self.where(split) if split == "train" else None
            return self.labelled.read(self.repository.records(stored), training)
        found = self.repository.rows(stored, self.columns)
        return (dict(zip(self.fields, texts, strict=True)) for texts in found)

    def where(self, split: str) -> str:
        """The split of the dataset, in words."""
        return f"split {self.names[split]} of {self.described}"

    def fingerprint(self) -> str:
        """Changes with the dataset's content."""
        return self.repository.fingerprint(list(self.names.values()))
