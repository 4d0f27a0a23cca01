"""The files of a dataset's repository, on the Hugging Face hub or in a folder laid out like one.

`datasets` says which files a split has, and fetches them. It doesn't read them where that changes
texts: it guesses the types of columns from the first rows of a .csv or .json file and casts the
others, so that "10.50" or "0007" comes back as another text, and it ends lines at other places.
"""

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from everytoken.corpora.class_names import Row, named_rows, names_of
from everytoken.corpora.columns import pick, shown
from everytoken.corpora.datasets_internals import fingerprint
from everytoken.corpora.files import at_home, ending, find, lines, state
from everytoken.corpora.separated import Dialect
from everytoken.corpora.tables import ROWS_AT_A_TIME, TABLES, TableReader
from everytoken.errors import UserError, one_line

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, DatasetDict


class Repository(Protocol):
    """A dataset, split by split."""

    splits: list[str]
    """Their names."""

    def rows(self, split: str, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Texts of columns, row by row, as they were written."""
        ...

    def records(self, split: str) -> Iterator[Row]:
        """All columns, of whatever kind, row by row."""
        ...

    def fingerprint(self, splits: Sequence[str]) -> str:
        """Changes with what is stored of them."""
        ...


def repository(
    name: str, config: str | None, splits: Sequence[str], dialect: Dialect
) -> Repository:
    """Find a dataset, and fetch what it has of some splits.

    Args:
        name: of a repository on the hub, or a folder.
        config: which of its configurations; None for the only one.
        splits: those that will be read; it may lack some.
        dialect: how values are written in .csv and .tsv.

    Raises:
        UserError: no such dataset, or one that can't be read; no connection.
    """
    if not name:  # would be the current folder
        raise UserError("data.name is empty: give a name on the hub, or a folder")
    import datasets
    from datasets.exceptions import DatasetGenerationError

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is reported here
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        builder = _builder(name, config)
        kind = builder.name or ""
        if kind in OWN:
            return Files(builder, kind, splits, dialect)
        builder.download_and_prepare()
        return Arrow(name, cast("DatasetDict", builder.as_dataset()))
    except UserError:
        raise
    except Exception as error:  # whatever its readers of all formats raise
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) else error
        reason = one_line(cause or error)
        raise UserError(f"data.name={name} can't be loaded: {reason}") from error


def _builder(name: str, config: str | None) -> "DatasetBuilder":
    """What `datasets` knows of a dataset; without a connection, of the files that were fetched."""
    from datasets import load_dataset_builder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    folder = at_home(name)
    if folder.is_dir():
        return load_dataset_builder(str(folder.absolute()), config)
    unreachable: Exception | None = None
    try:
        builder = load_dataset_builder(name, config)
        if builder.config.data_files is not None:
            return builder  # or it knows only what was prepared earlier, types guessed
    except ConnectionError as error:
        unreachable = error
    try:
        fetched = snapshot_download(name, repo_type="dataset", local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise unreachable or error from None
    return load_dataset_builder(fetched, config)


class Files:
    """A dataset of .csv, .tsv, .json, .jsonl, .txt or .parquet files."""

    def __init__(
        self, builder: "DatasetBuilder", kind: str, splits: Sequence[str], dialect: Dialect
    ) -> None:
        from datasets import DownloadManager

        found = {
            str(split): list(files) for split, files in (builder.config.data_files or {}).items()
        }
        self.splits = list(found)
        self.names = names_of(builder.info.features)
        self.dialect = _dialect(builder.config, kind, dialect)
        self.files: dict[str, list[Path]] = {}
        for split in (split for split in splits if split in found):
            fetched = DownloadManager().download(found[split])
            self.files[split] = find(fetched, READERS)

    def rows(self, split: str, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """As `Repository` says."""
        for file in self.files[split]:
            yield from READERS[ending(file)](file, columns, self.dialect)

    def records(self, split: str) -> Iterator[Row]:
        """As `Repository` says."""
        for file in self.files[split]:
            if ending(file) == ".txt":
                for number, line in enumerate(lines(file), start=1):
                    yield Row(f"{file}, line {number}", {"text": line})
            else:
                for row in named_rows(file, self.dialect):
                    yield row._replace(names={**self.names, **row.names})

    def fingerprint(self, splits: Sequence[str]) -> str:
        """As `Repository` says."""
        return str(({split: state(self.files[split]) for split in splits}, self.dialect))


class Arrow:
    """A dataset of files that only `datasets` reads; their columns have types."""

    def __init__(self, name: str, found: "DatasetDict") -> None:
        self.name = name
        self.datasets = {str(split): dataset for split, dataset in found.items()}
        self.splits = list(self.datasets)

    def rows(self, split: str, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """As `Repository` says."""
        dataset, where = self.datasets[split], f"split {split} of {self.name}"
        known = dataset.column_names
        tops = {c if c in known else c.partition(".")[0] for c in columns}
        if missing := sorted(tops - set(known)):
            raise UserError(f"{where} has no column {missing[0]!r}; it has {shown(known)}")
        for place, row in self._numbered(dataset.select_columns(sorted(tops)), where):
            yield tuple(pick(row, column, place) for column in columns)

    def records(self, split: str) -> Iterator[Row]:
        """As `Repository` says."""
        dataset, where = self.datasets[split], f"split {split} of {self.name}"
        names = names_of(dataset.features)
        yield from (Row(place, row, names) for place, row in self._numbered(dataset, where))

    def _numbered(self, dataset: "Dataset", where: str) -> Iterator[tuple[str, dict[str, Any]]]:
        number = 0
        for batch in cast(Iterator[Any], dataset.iter(ROWS_AT_A_TIME)):
            for values in zip(*batch.values(), strict=True):
                number += 1
                yield f"{where}, row {number}", dict(zip(batch, values, strict=True))

    def fingerprint(self, splits: Sequence[str]) -> str:
        """As `Repository` says."""
        return str({split: fingerprint(self.datasets[split]) for split in splits})


def _text_lines(file: Path, columns: Sequence[str], _: Dialect) -> Iterator[tuple[str, ...]]:
    if missing := [column for column in columns if column != "text"]:
        raise UserError(f"{file} has no column {missing[0]!r}: its lines are the column 'text'")
    yield from ((line,) * len(columns) for line in lines(file))


READERS: dict[str, TableReader] = {".txt": _text_lines, **TABLES}
"""How files are read, by their ending."""

OWN = ("csv", "json", "parquet", "text")
"""What `datasets` calls files that are read here."""

IGNORED = ("name", "version", "data_dir", "data_files", "description", "features", "delimiter")
"""Settings of a repository's README.md that don't say how files are written."""


def _dialect(config: Any, kind: str, dialect: Dialect) -> Dialect:
    """How files are written, by the user and then by the repository's README.md.

    Raises:
        UserError: it has a setting for its files that isn't known here.
    """
    plain = type(config)()
    said = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in IGNORED}
    said = {name: value for name, value in said.items() if value != getattr(plain, name)}
    separator, quoting = said.pop("sep", None), said.pop("quoting", None)
    names, more = said.pop("names", None), said.pop("column_names", None)
    if said and kind == "csv" and names is not None and said.get("header", 0) is None:
        del said["header"]
    if said:
        name, value = next(iter(said.items()))
        raise UserError(
            f"the README.md of the dataset says that its {kind} files are to be read with "
            f"{name}={value!r:.40}, which data=hub doesn't: fetch them, and use data=text or pairs"
        )
    return Dialect(
        dialect.separator or separator,
        False if dialect.quoted is None and quoting == csv.QUOTE_NONE else dialect.quoted,
        dialect.column_names or names or more,
    )
