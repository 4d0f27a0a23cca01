"""A corpus of texts from files."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from everytoken.corpora.file_source import FileSource
from everytoken.corpora.files import Paths, documents, ending, lines
from everytoken.corpora.long_text import LongText
from everytoken.corpora.separated import Dialect
from everytoken.corpora.shares import by_position
from everytoken.corpora.tables import TABLES, table
from everytoken.errors import UserError

ENDINGS = (".txt", *TABLES)


class Text(FileSource):
    """Texts of .txt, .jsonl, .json, .csv, .tsv (each may be compressed) and .parquet files.

    Args:
        train: files of training texts.
        val: files of validation texts; None for a share of `train`.
        test: the same for test texts.
        column: what holds the text in files with columns.
        example: of .txt files, "line" makes each line that isn't blank an example, "file" each
            file, which may be larger than memory (`LongText`).
        split_by: how shares are held out: "content" divides examples by a hash of their texts;
            "position" cuts each example, its first part for training, its last for test.
        val_fraction: see `SplitSource`, as for the others.
        test_fraction: share for test.
        seed: decides which texts.
        separator: of .csv and .tsv, see `Dialect`, as for the others.
        quoted: whether quotes enclose values.
        column_names: of files without a line of them.

    Raises:
        UserError: files that aren't there or that can't be read, contradictory settings.
    """

    fields = ("text",)
    advice = "give more, raise it, or cut long texts into splits by data.split_by=position"

    def __init__(
        self,
        train: Paths,
        val: Paths | None,
        test: Paths | None,
        column: str,
        example: Literal["line", "file"],
        split_by: Literal["content", "position"],
        val_fraction: float,
        test_fraction: float,
        seed: int,
        separator: str | None = None,
        quoted: bool | None = None,
        column_names: Sequence[str] | None = None,
    ) -> None:
        if example not in ("line", "file"):
            raise UserError(f"data.example must be line or file, got {example!r}")
        if split_by not in ("content", "position"):
            raise UserError(f"data.split_by must be content or position, got {split_by!r}")
        super().__init__(train, val, test, ENDINGS, val_fraction, test_fraction, seed)
        self.column = str(column)
        self.dialect = Dialect(separator, quoted, column_names)
        self.read_text = lines if example == "line" else documents
        self.split_by = split_by
        if split_by == "position" and example == "line":
            for file in self.files["train"]:
                if ending(file) not in TABLES:
                    raise UserError(
                        f"data.split_by=position would cut each line of {file} into splits: "
                        "set data.example=file, or leave it out"
                    )

    def read(self, split: str) -> Iterator[dict[str, Any]]:
        """All texts that are stored of a split."""
        for file in self.files[split]:
            if ending(file) in TABLES:
                texts: Iterator[Any] = (
                    text for (text,) in table(file, [self.column], self.dialect)
                )
            else:
                texts = self.read_text(file)
            yield from ({"text": text} for text in texts)

    def part(self, split: str, texts: dict[str, Any], key: int) -> dict[str, Any] | None:
        """As `SplitSource` says; by position, a part of each text."""
        if self.split_by == "content":
            return super().part(split, texts, key)
        text: Any = texts["text"]
        begin, end = by_position(len(text), self.shares, self.most_held_out)[split]
        piece = text.part(begin, end) if isinstance(text, LongText) else text[begin:end]
        return {"text": piece} if len(piece) and not piece.isspace() else None

    def unit(self, split: str) -> str:
        """Lines of one text file; else texts, over all files."""
        files = self.files[split]
        is_plain = len(files) == 1 and ending(files[0]) not in TABLES and self.read_text is lines
        return "lines" if is_plain else "texts"
