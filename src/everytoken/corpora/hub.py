"""A corpus of the Hugging Face hub, or of a folder laid out like one of its repositories."""

from collections.abc import Iterator, Mapping, Sequence

from everytoken.corpora.repository import repository
from everytoken.corpora.separated import Dialect
from everytoken.corpora.splits import SPLITS, SplitSource
from everytoken.errors import UserError


class Hub(SplitSource):
    """A dataset that `datasets` finds and fetches. Its files stay on disk and are read as streams.

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
    ) -> None:
        names = dict(zip(SPLITS, (train, val, test), strict=True))
        self.names = {split: str(name) for split, name in names.items() if name is not None}
        super().__init__(list(self.names), val_fraction, test_fraction, seed)
        self.described = f"{name} ({config})" if config is not None else str(name)
        self.fields = tuple(fields)
        self.columns = [str(columns[field]) for field in fields]
        self.repository = repository(
            str(name),
            None if config is None else str(config),
            list(self.names.values()),
            Dialect(separator, quoted, column_names),
        )
        for split, own in self.names.items():
            if own not in self.repository.splits:
                raise UserError(
                    f"data.name={name} has no split {own!r}; it has "
                    f"{', '.join(self.repository.splits)}: give data.{split}_split=NAME"
                    + (f", or null to hold out data.{split}_fraction" if split != "train" else "")
                )

    def read(self, split: str) -> Iterator[dict[str, str]]:
        """All examples that are stored of a split."""
        for texts in self.repository.rows(self.names[split], self.columns):
            yield dict(zip(self.fields, texts, strict=True))

    def where(self, split: str) -> str:
        """The split of the dataset, in words."""
        return f"split {self.names[split]} of {self.described}"

    def fingerprint(self) -> str:
        """Changes with the dataset's content."""
        return self.repository.fingerprint(list(self.names.values()))
