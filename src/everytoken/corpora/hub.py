"""A corpus of the Hugging Face hub, or of a folder laid out like one of its repositories."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from everytoken.corpora.datasets_internals import fingerprint
from everytoken.corpora.splits import SPLITS, SplitSource
from everytoken.corpora.tables import ROWS_AT_A_TIME, pick
from everytoken.errors import UserError, one_line

if TYPE_CHECKING:
    from datasets import DatasetDict


class Hub(SplitSource):
    """A dataset that `datasets.load_dataset` finds; kept on disk, read through Arrow.

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
    ) -> None:
        names = dict(zip(SPLITS, (train, val, test), strict=True))
        self.names = {split: name for split, name in names.items() if name is not None}
        super().__init__(list(self.names), val_fraction, test_fraction, seed)
        self.name = name
        self.fields = tuple(fields)
        self.columns = {field: columns[field] for field in fields}
        self.datasets = _load(str(name), None if config is None else str(config))
        for split, own in self.names.items():
            if own not in self.datasets:
                raise UserError(
                    f"data.name={name} has no split {own!r}; it has "
                    f"{', '.join(map(str, self.datasets))}: give data.{split}_split=NAME"
                    + (f", or null to hold out data.{split}_fraction" if split != "train" else "")
                )

    def read(self, split: str) -> Iterator[dict[str, str]]:
        """All examples that are stored of a split."""
        dataset = self.datasets[self.names[split]]
        known = dataset.column_names
        tops = {c if c in known else c.partition(".")[0] for c in self.columns.values()}
        where = self.where(split)
        if missing := sorted(tops - set(known)):
            raise UserError(f"{where} has no column {missing[0]!r}; it has {', '.join(known)}")
        batches = cast(Iterator[Any], dataset.select_columns(sorted(tops)).iter(ROWS_AT_A_TIME))
        rows = (
            dict(zip(batch, values, strict=True))
            for batch in batches
            for values in zip(*batch.values(), strict=True)
        )
        for number, row in enumerate(rows, start=1):
            place = f"{where}, row {number}"
            yield {field: pick(row, name, place) for field, name in self.columns.items()}

    def where(self, split: str) -> str:
        """The split of the dataset, in words."""
        return f"split {self.names[split]} of {self.name}"

    def fingerprint(self) -> str:
        """Changes with the dataset's content."""
        return str({own: fingerprint(self.datasets[own]) for own in self.names.values()})


def _load(name: str, config: str | None) -> "DatasetDict":
    import datasets
    from datasets import DatasetDict, load_dataset
    from datasets.exceptions import DatasetGenerationError

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is reported here
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        found = load_dataset(name, config)
    except Exception as error:  # whatever its readers of all formats raise
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) else error
        reason = one_line(cause or error)
        raise UserError(f"data.name={name} can't be loaded: {reason}") from error
    assert isinstance(found, DatasetDict)
    return found
