"""Documents whose ids are in files, as objectives and evaluation take them."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from everytoken.corpora.documents import Document, TokenFile
from everytoken.corpora.long_text import LONG_CHARACTERS, LongText
from everytoken.data.collate import Ids
from everytoken.data.item import Place
from everytoken.errors import UserError
from everytoken.tokenizer.tokenizer import Tokenizer


class Marked:
    """The ids of a document between marks that aren't in its file; a slice of them is read.

    Args:
        document: the ids.
        before: at most one mark.
        after: at most one mark.
    """

    def __init__(self, document: Document, before: list[int], after: list[int]) -> None:
        self.document = document
        self.before = before
        self.after = after

    def __len__(self) -> int:
        return len(self.before) + len(self.document) + len(self.after)

    def __getitem__(self, part: slice) -> Ids:
        begin, end, _ = part.indices(len(self))
        return read(self.place(begin, begin, max(begin, end)))[0]

    def place(self, begin: int, own: int, end: int) -> Place:
        """Where some of the ids are, in positions of this."""
        first, last = len(self.before), len(self.before) + len(self.document)
        inside = [min(max(at, first), last) - first for at in (begin, own, end)]
        return Place(
            self.document.file,
            *(self.document.begin + at for at in inside),
            head=self.before[0] if own < first and own < end else -1,
            tail=self.after[0] if end > last and own < end else -1,
        )


def read(place: Place) -> tuple[Ids, Ids]:
    """int32: what is at a place with the marks beside it, and what stands before that."""
    file, begin, own, end, head, tail = place
    ids = file.read(begin, end).astype(np.int32)
    context, ids = ids[: own - begin], ids[own - begin :]
    if head >= 0 or tail >= 0:
        marks = ([mark] if mark >= 0 else [] for mark in (head, tail))
        before, after = (np.array(mark, dtype=np.int32) for mark in marks)
        ids = np.concatenate([before, ids, after])
    return ids, context


def as_text(document: Document, tokenizer: Tokenizer) -> Document:
    """A document without the begin and the end that its file may have: objectives give both.

    Raises:
        UserError: ids that aren't those of texts, with the file and the first one's position.
    """
    special, vocabulary = tokenizer.special, len(tokenizer)
    begins = len(document) > 0 and document[0] == special.bos
    ends = len(document) > begins and document[-1] == special.eos
    document = document.part(begins, len(document) - ends)
    padding = special.pad if special.pad not in (special.bos, special.eos) else -1
    for begin, block in document.blocks():
        wrong = (block < 0) | (block >= vocabulary) | (block == padding)
        if not wrong.any():
            continue
        place, id_ = int(wrong.argmax()), int(block[wrong.argmax()])
        where = f"{document.at(begin + place)} (from 0), is id {id_}"
        if id_ == padding:
            raise UserError(
                f"{where}, the tokenizer's padding, which would be learned as text: write each "
                "document without it"
            )
        raise UserError(
            f"{where}, and the tokenizer has 0 to {vocabulary - 1}: choose the one that these ids "
            "are of, tokenizer=pretrained tokenizer.path=FOLDER, and mind data.dtype"
        )
    return document


def written(values: Sequence[Any], tokenizer: Tokenizer) -> tuple[list[str], list[list[int]]]:
    """Texts and ids of documents, in memory."""
    ids = [[*document] for document in values]
    return [tokenizer.decode(own) for own in ids], ids


def encoded(values: Sequence[Any], tokenizer: Tokenizer, spills: bool = False) -> list[Any]:
    """Ids of texts; of documents that are ids already, those that objectives put marks around.

    Args:
        values: texts and documents.
        tokenizer: makes ids of texts.
        spills: True if ids of long texts may be on disk, as a document.
    """
    plain = [value for value in values if type(value) is str and not (spills and is_long(value))]
    encoded = tokenizer.encode(plain)
    if len(plain) == len(values):
        return encoded
    short = iter(encoded)
    return [
        as_text(value, tokenizer)
        if isinstance(value, Document)
        else spilled(value, tokenizer)
        if isinstance(value, LongText) or (spills and is_long(value))
        else next(short)
        for value in values
    ]


def is_long(text: Any) -> bool:
    """Whether a text is one whose ids don't go into memory at once."""
    return len(text) > LONG_CHARACTERS if type(text) is str else isinstance(text, LongText)


def spilled(text: str | LongText, tokenizer: Tokenizer) -> Document:
    """The ids of a long text, in a file without a name that goes when nobody reads it any more."""
    blocks = text.blocks() if isinstance(text, LongText) else [text]
    dtype = np.dtype(np.int32)
    with tempfile.NamedTemporaryFile(prefix="everytoken-") as file:
        count = 0
        for ids in tokenizer.encode_blocks(blocks):
            count += len(ids)
            file.write(np.array(ids, dtype=dtype).tobytes())
        file.flush()
        return Document(TokenFile(Path(file.name), dtype), 0, count, "a long text", 0)
