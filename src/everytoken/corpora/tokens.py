"""A corpus of token ids that are in files already."""

from collections.abc import Iterator
from typing import Any, Literal

from everytoken.corpora.documents import Document
from everytoken.corpora.file_source import FileSource
from everytoken.corpora.files import OPENERS, Paths
from everytoken.corpora.remote import RemoteFile
from everytoken.corpora.shares import by_position
from everytoken.corpora.token_files import DTYPES, READERS, documents
from everytoken.errors import UserError, check_choice, check_number


class Tokens(FileSource):
    """Documents of ids, of .bin, .npy and .arrow files, which stay where they are.

    Args:
        train: files of training documents.
        val: files of validation documents; None for a share of `train`.
        test: the same for test documents.
        dtype: of the ids of .bin files, one of `DTYPES`.
        end_id: what stands after each document; None if a file, or a row of one with rows, is one.
        column: of .arrow files: the lists of ids.
        split_by: how shares are held out: "content" divides documents by a hash of their ids;
            "position" cuts each document, its first part for training, its last for test.
        val_fraction: see `SplitSource`, as for the others.
        test_fraction: share for test.
        seed: decides which documents.

    Raises:
        UserError: files that aren't there or that can't be read, settings out of range.
    """

    fields = ("text",)
    has_ids = True
    """Its texts are `Document`s."""
    advice = "give more, or set data.end_id, which divides files, or data.split_by=position"

    def __init__(
        self,
        train: Paths,
        val: Paths | None,
        test: Paths | None,
        dtype: str,
        end_id: int | None,
        column: str,
        split_by: Literal["content", "position"],
        val_fraction: float,
        test_fraction: float,
        seed: int,
    ) -> None:
        check_choice("data.dtype", dtype, DTYPES)
        check_number("data.end_id", end_id, int, low=0, optional=True)
        check_choice("data.split_by", split_by, ("content", "position"))
        super().__init__(train, val, test, READERS, val_fraction, test_fraction, seed)
        for file in (file for files in self.files.values() for file in files):
            if isinstance(file, RemoteFile):
                raise UserError(f"{file} isn't on this machine, and ids are read where they lie")
            if file.suffix.lower() in OPENERS:
                raise UserError(f"{file} is compressed: unpack it, as ids are read where they lie")
        self.dtype = dtype
        self.end_id = end_id
        self.column = str(column)
        self.split_by = split_by

    def read(self, split: str) -> Iterator[dict[str, Any]]:
        """All documents that are stored of a split."""
        for file in self.files[split]:
            for document in documents(file, self.dtype, self.column, self.end_id):
                yield {"text": document}

    def part(self, split: str, texts: dict[str, Any], key: int) -> dict[str, Any] | None:
        """As `SplitSource` says; by position, a part of each document."""
        if self.split_by == "content":
            return super().part(split, texts, key)
        document: Document = texts["text"]
        places = by_position(len(document), self.shares, self.most_held_out)
        piece = document.part(*places[split])
        return {"text": piece} if len(piece) else None

    def unit(self, split: str) -> str:
        """Documents, over all files."""
        return "documents"
