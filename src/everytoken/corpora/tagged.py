"""A corpus of tagged words: columns, tables of words and tags, texts with marked parts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from everytoken.corpora.class_names import Row, chosen, named_rows
from everytoken.corpora.columns import check_text, packed, shown
from everytoken.corpora.conll import ENDINGS as COLUMNS
from everytoken.corpora.conll import Tagged, sentences
from everytoken.corpora.file_source import FileSource
from everytoken.corpora.files import Paths, ending
from everytoken.corpora.words import SPLITS as WORDS
from everytoken.corpora.words import Span, Split, tags_of
from everytoken.errors import UserError

ENDINGS = (*COLUMNS, ".jsonl", ".ndjson", ".json", ".parquet")

KNOWN = (
    (("tokens", "words"), ("tags", "ner_tags")),
    (("text",), ("spans", "entities")),
)
"""Names of columns that are looked for: of words and their tags; of texts and their parts."""


class TaggedRows:
    """How a row with columns holds words with a tag each: a list of words and a list of tags; or a
    text, and a list of its marked parts, each with "start", "end" and "label".

    Args:
        word: the column of words, or of texts; None for one of `KNOWN`.
        tag: the column of tags, or of marked parts; None for one of `KNOWN`.
        names: what tags that are numbers are called, in their order.
        split: what ends a word of a text.

    Raises:
        UserError: no such `split`.
    """

    fields = ("words", "tags")

    def __init__(
        self,
        word: str | int | None,
        tag: str | int | None,
        names: Sequence[str] | None,
        split: Split,
    ) -> None:
        if split not in WORDS:
            raise UserError(f"data.split must be {', '.join(WORDS[:-1])} or {WORDS[-1]}")
        self.columns = {"word": word, "tag": tag}
        self.names = chosen(names)
        self.split: Split = split

    def read(self, rows: Iterable[Row]) -> Iterator[dict[str, str]]:
        """The example that each row holds.

        Raises:
            UserError: when it is reached: a row that holds none, or other than said.
        """
        for place, row, known in rows:
            word, tag = self._pair(row, place)
            tags = row[tag]
            is_listed = isinstance(tags, list) and tags and isinstance(tags[0], str)
            if isinstance(row[word], str) and not is_listed:
                yield packed_words(*self._marked(row[word], tags, place))
            else:
                names = self.names or known.get(tag)
                yield packed_words(*self._listed(row[word], tags, (word, tag), names, place))

    def _pair(self, row: Mapping[str, Any], place: str) -> tuple[str, str]:
        """The columns of words and tags, or of a text and its spans."""
        word, tag = self.columns.values()
        for known_words, known_tags in KNOWN:
            words = known_words if word is None else (str(word),)
            tags = known_tags if tag is None else (str(tag),)
            found = [(one, other) for one in words for other in tags if {one, other} <= {*row}]
            if len(found) > 1:
                shown_pairs = " or ".join(f"{one} and {other}" for one, other in found)
                raise UserError(
                    f"{place}: words and tags may be in {shown_pairs}: set data.word and data.tag"
                )
            if found:
                return found[0]
        given = " and ".join(f"data.{k}={v}" for k, v in self.columns.items() if v is not None)
        known = " nor ".join(" and ".join(map("/".join, pair)) for pair in KNOWN)
        how = f"set data.word and data.tag to two of {shown(row)}"
        if len(row) < 2:
            how = (
                f"there is {shown(row)} only; columns of .conll are read by data=tagged data.path=…"
            )
        raise UserError(f"{place}: no columns {given or known}: {how}")

    def _listed(
        self,
        words: Any,
        tags: Any,
        columns: tuple[str, str],
        names: Sequence[str] | None,
        place: str,
    ) -> Tagged:
        word, tag = columns
        for column, values in ((word, words), (tag, tags)):
            if not isinstance(values, list):
                raise UserError(
                    f"{place}: column {column!r} is {values!r:.60}: give a list, of words and of "
                    "tags; or a text and a list of its spans"
                )
        for number, one in enumerate(words, start=1):
            what = f"word {number} of column {word!r}"
            if not isinstance(one, str) or not one.strip():
                raise UserError(f"{place}: {what} is {one!r:.60}: give a text that isn't blank")
            check_text(one, what, place)
        if len(words) != len(tags):
            raise UserError(
                f"{place}: words in {word!r}: {len(words)}, tags in {tag!r}: {len(tags)}; give one "
                "tag a word"
            )
        what = f"of column {tag!r}"
        return words, [
            _name(one, f"tag {number} {what}", names, place)
            for number, one in enumerate(tags, start=1)
        ]

    def _marked(self, text: str, spans: Any, place: str) -> Tagged:
        check_text(text, "the text", place)
        if not isinstance(spans, list):
            raise UserError(
                f"{place}: a text, and its spans are {spans!r:.60}: give a list of them, [] for "
                "none; or a list of words and one of their tags"
            )
        try:
            return tags_of(text, [_span(one) for one in spans], self.split)
        except ValueError as error:
            raise UserError(f"{place}: {error}") from error


class TaggedWords(FileSource):
    """Words with a tag each, of .conll, .conllu, .txt and .tsv (columns, see `conll.sentences`), of
    .jsonl, .json (each may be compressed) and .parquet files.

    A row of the latter has a list of words and a list of tags; or a text, and a list of its marked
    parts, each with "start", "end" and "label".

    Args:
        train: files of training sentences.
        val: files of validation sentences; None for a share of `train`, in which the first
            sentence with each tag stays.
        test: the same for test sentences.
        word: the column of words, or of texts: a number in files of columns, else a name. None for
            the first, or for one of `KNOWN`.
        tag: the column of tags, or of marked parts; None for the last, or for one of `KNOWN`.
        names: what tags that are numbers are called, in their order.
        split: what ends a word of a text.
        val_fraction: see `SplitSource`, as for the others.
        test_fraction: share for test.
        seed: decides which sentences.

    Raises:
        UserError: files that aren't there or that can't be read, a column that can't be.
    """

    fields = ("words", "tags")
    kept = "tags"

    def __init__(
        self,
        train: Paths,
        val: Paths | None,
        test: Paths | None,
        word: str | int | None,
        tag: str | int | None,
        names: Sequence[str] | None,
        split: Split,
        val_fraction: float,
        test_fraction: float,
        seed: int,
    ) -> None:
        self.rows = TaggedRows(word, tag, names, split)
        super().__init__(train, val, test, ENDINGS, val_fraction, test_fraction, seed)
        for file in (file for files in self.files.values() for file in files):
            self._check_columns(file)

    def _check_columns(self, file: Path) -> None:
        kind, what = (int, "numbers") if ending(file) in COLUMNS else (str, "names")
        for name, column in self.rows.columns.items():
            if column is not None and (type(column) is not kind):
                raise UserError(
                    f"data.{name}={column}: columns of {file} have {what}, and it is none"
                )

    def read(self, split: str) -> Iterator[dict[str, str]]:
        """All sentences that are stored of a split; a row without a word is a blank line."""
        for file in self.files[split]:
            if ending(file) in COLUMNS:
                word, tag = self.rows.columns.values()
                own, other = (None if c is None else int(c) for c in (word, tag))
                yield from (packed_words(*pair) for pair in sentences(file, own, other))
            else:
                yield from self.rows.read(named_rows(file))

    def unit(self, split: str) -> str:
        """Sentences, over all files."""
        return "sentences"


def packed_words(words: Sequence[str], tags: Sequence[str]) -> dict[str, str]:
    """An example of words and tags; without a word it is a blank line."""
    both = {"words": packed(words), "tags": packed(tags)}
    return both if words else dict.fromkeys(both, "")


def _name(tag: Any, what: str, names: Sequence[str] | None, place: str) -> str:
    """What a tag is called."""
    if isinstance(tag, int) and not isinstance(tag, bool):
        if names is None:
            raise UserError(
                f"{place}: {what} is a number ({tag}): name them all in their order, as "
                "'data.names=[O,B-PER,I-PER]'"
            )
        if not 0 <= tag < len(names):
            raise UserError(
                f"{place}: {what} is {tag}, and data.names has {len(names)} names: 0 to "
                f"{len(names) - 1}"
            )
        return names[tag]
    if not isinstance(tag, str) or not tag.strip():
        raise UserError(f"{place}: {what} is {tag!r:.60}: give a text that isn't blank")
    if names is not None and tag not in names:
        raise UserError(f"{place}: {what} is {tag!r:.60}, which data.names doesn't have")
    check_text(tag, what, place)
    return tag


def _span(value: Any) -> Span:
    """A marked part as it is written: {"start": 0, "end": 4, "label": "PER"}, or [0, 4, "PER"]."""
    parts: Any = value
    if isinstance(value, dict):
        parts = [value.get(k) for k in ("start", "end", "label")]
    kinds = [int, int, str]
    if not isinstance(parts, list) or [*map(type, parts)] != kinds or not parts[2].strip():
        raise ValueError(
            f"the span {value!r:.80} isn't as {{'start': 0, 'end': 4, 'label': 'PER'}}: two "
            "numbers of characters and a text"
        )
    return Span(*parts)
