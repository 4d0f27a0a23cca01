"""Files of columns as CoNLL has them: a word a line, and a blank line after each sentence."""

import re
from collections.abc import Iterator
from pathlib import Path

from everytoken.corpora.files import ending, lines
from everytoken.errors import UserError

ENDINGS = (".conll", ".conllu", ".txt", ".tsv")

DOCUMENT = "-DOCSTART-"
"""Begins a document, and is no word."""

Tagged = tuple[list[str], list[str]]
"""Words and as many tags."""


def sentences(file: Path, word: int | None, tag: int | None) -> Iterator[Tagged]:
    """The sentences of a file; blank lines that follow a blank line are none.

    Columns are separated by tabs if a line has one, else by spaces; all other white space is text.
    Quotes are text, and so is a number sign; but in .conllu it begins a comment.

    Args:
        file: one that ends in one of `ENDINGS`.
        word: the column of words, from 0; from -1 on counted from the last. None for the first.
        tag: the column of tags; None for the last.

    Raises:
        UserError: a missing or broken file; lines of different numbers of columns, or without the
            ones that are asked for; a first column that isn't said to be words, and numbers them;
            when it is reached.
    """
    is_conllu = ending(file) == ".conllu"
    is_said = word is not None
    word, tag = word or 0, -1 if tag is None else tag
    words: list[str] = []
    tags: list[str] = []
    columns: int | None = None
    for number, line in enumerate(lines(file), start=1):
        place = f"{file}, line {number}"
        cells = re.split(r" *\t *" if "\t" in line else " +", line.strip(" "))
        if not line.strip() or cells[0] == DOCUMENT:
            if words:
                yield words, tags
                words, tags = [], []
            continue
        if is_conllu and _is_no_word(cells[0]):
            continue
        if columns is None:
            columns = len(cells)
            _check_columns(columns, word, tag, place)
        if len(cells) != columns:
            raise UserError(
                f"{place}: columns: {len(cells)} ({line[:60]!r}), and {columns} in the lines "
                "before: each word needs its tag, in the same column"
            )
        if not cells[word] or not cells[tag]:
            missing = "tag" if cells[word] else "word"
            raise UserError(f"{place}: the {missing} is empty ({line[:60]!r}): fill it in")
        words.append(cells[word])
        tags.append(cells[tag])
        if not is_said and words == ["1", "2"]:
            raise UserError(
                f"{place}: the first column numbers the words: say which columns are meant, by "
                "data.word=1 data.tag=3, say (the first is 0)"
            )
        is_said |= len(words) > 1  # of a later sentence they may be numbers
    if words:
        yield words, tags


def _is_no_word(cell: str) -> bool:
    """True of a comment, and of the number of what is no word of its own ("1-2", "8.1")."""
    return cell.startswith("#") or not cell.isdecimal()


def _check_columns(count: int, word: int, tag: int, place: str) -> None:
    for name, column in (("word", word), ("tag", tag)):
        if not -count <= column < count:
            raise UserError(
                f"{place}: data.{name}={column} isn't among its {count} columns (0 to {count - 1}, "
                "or -1 for the last)"
            )
    if word % count == tag % count:
        what = "one column" if count == 1 else f"column {word % count} for both"
        raise UserError(
            f"{place}: {what}: a word and its tag are two (data.word and data.tag say which)"
        )
