"""Conversations of files, in the forms in which they are passed around."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from everytoken.corpora.class_names import Row, named_rows
from everytoken.corpora.columns import shown
from everytoken.corpora.conversations import ASSISTANT, Conversation, with_texts
from everytoken.corpora.file_source import FileSource
from everytoken.corpora.files import Paths
from everytoken.corpora.separated import Dialect
from everytoken.corpora.tables import TABLES
from everytoken.errors import UserError, check_choice

SHAREGPT = {
    "human": "user",
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "bing": ASSISTANT,
    "bard": ASSISTANT,
    "observation": "tool",
}
"""Who speaks in `conversations`; other names are as they are."""

Values = Mapping[str, Any]
"""Of a row, by column."""


class Form(NamedTuple):
    """How a row holds a conversation."""

    columns: tuple[str, ...]
    """All of which it has."""
    messages: Callable[[Values], Any]
    """Its messages; raises ValueError if they can't be had."""


def _conversations(row: Values) -> Any:
    turns = _parsed(row["conversations"])
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return turns
    found = []
    for turn in turns:
        said = {key: value for key, value in turn.items() if key not in ("from", "value")}
        if "from" in turn:
            said["role"] = SHAREGPT.get(turn["from"], turn["from"])
        if "value" in turn:
            said["content"] = turn["value"]
        found.append(said)
    return found


def _completed(row: Values) -> Any:
    return [*_system(row), *_pair(row["prompt"], row["completion"])]


def _instructed(row: Values) -> Any:
    asked, more = row["instruction"], row.get("input") or ""
    if isinstance(more, str) and isinstance(asked, str) and more:
        asked = f"{asked}\n\n{more}"
    return [*_system(row), *_pair(asked, row["output"])]


def _system(row: Values) -> list[dict[str, Any]]:
    return [{"role": "system", "content": row["system"]}] if row.get("system") else []


def _pair(question: Any, answer: Any) -> list[dict[str, Any]]:
    return [*_turns("user", question), *_turns(ASSISTANT, answer)]


def _turns(role: str, said: Any) -> list[Any]:
    """What somebody says; or messages, which name who does."""
    if isinstance(said, list) and all(isinstance(turn, dict) and "role" in turn for turn in said):
        return said
    return [{"role": role, "content": said}]


FORMS = {
    "messages": Form(("messages",), lambda row: _parsed(row["messages"])),
    "conversations": Form(("conversations",), _conversations),
    "prompt": Form(("prompt", "completion"), _completed),
    "instruction": Form(("instruction", "output"), _instructed),
}
"""By the value of data.form."""


class ChatRows:
    """How a row with columns holds a conversation.

    Args:
        form: which columns hold it, a name in `FORMS`; None for those that are there.

    Raises:
        UserError: no such form.
    """

    fields = ("messages",)

    def __init__(self, form: str | None) -> None:
        if form is not None:
            check_choice("data.form", form, tuple(FORMS))
        self.form = form

    def read(self, rows: Iterable[Row]) -> Iterator[dict[str, str]]:
        """The example that each row holds.

        Raises:
            UserError: when it is reached: a row that is no conversation.
        """
        for place, row, _ in rows:
            yield {"messages": conversation(row, self.form, place).packed()}


class Chats(FileSource):
    """Conversations of .jsonl, .json, .csv, .tsv (each may be compressed) and .parquet files.

    Args:
        train: files of training conversations.
        val: files of validation conversations; None for a share of `train`.
        test: the same for test.
        form: which columns hold them, a name in `FORMS`; None for those that are there.
        val_fraction: see `SplitSource`, as for the others.
        test_fraction: share for test.
        seed: decides which conversations.
        separator: of .csv and .tsv, see `Dialect`, as for the others.
        quoted: whether quotes enclose values.
        column_names: of files without a line of them.

    Raises:
        UserError: files that aren't there; when it is reached, a row that is no conversation.
    """

    fields = ("messages",)

    def __init__(
        self,
        train: Paths,
        val: Paths | None,
        test: Paths | None,
        form: str | None,
        val_fraction: float,
        test_fraction: float,
        seed: int,
        separator: str | None = None,
        quoted: bool | None = None,
        column_names: Sequence[str] | None = None,
    ) -> None:
        self.rows = ChatRows(form)
        super().__init__(train, val, test, TABLES, val_fraction, test_fraction, seed)
        self.dialect = Dialect(separator, quoted, column_names)

    def read(self, split: str) -> Iterator[dict[str, str]]:
        """All conversations that are stored of a split."""
        for file in self.files[split]:
            yield from self.rows.read(named_rows(file, self.dialect))

    def unit(self, split: str) -> str:
        """Conversations, over all files."""
        return "conversations"


def conversation(row: Values, form: str | None, place: str) -> Conversation:
    """The conversation that a row holds.

    Args:
        row: values by column.
        form: a name in `FORMS`; None for the one whose columns there are.
        place: of the row, in words.

    Raises:
        UserError: there is none, or several, or it isn't as conversations are.
    """
    chosen = FORMS[form] if form else _form(row, place)
    if missing := [column for column in chosen.columns if column not in row]:
        raise UserError(f"{place}: no column {missing[0]!r}; there is {shown(row)}")
    try:
        tools = _parsed(row["tools"]) if row.get("tools") else None
        found = Conversation(with_texts(_without_nulls(chosen.messages(row))), tools)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error
    if mistake := found.mistake():
        raise UserError(f"{place}: {mistake}")
    return found


def _form(row: Values, place: str) -> Form:
    found = [name for name, form in FORMS.items() if {*form.columns} <= row.keys()]
    if not found:
        wanted = "; ".join(", ".join(form.columns) for form in FORMS.values())
        raise UserError(
            f"{place}: no conversation in the columns {shown(row)}: give one of these: {wanted}"
        )
    if len(found) > 1:
        choices = " or ".join(f"data.form={name}" for name in found)
        raise UserError(
            f"{place}: the columns {shown(row)} hold a conversation in {len(found)} ways: say "
            f"which one is meant, {choices}"
        )
    return FORMS[found[0]]


def _parsed(value: Any) -> Any:
    """What a column holds; in .csv it is a text, in JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{value[:40]!r} is no JSON ({error}): give a list of messages in JSON"
        ) from error


def _without_nulls(messages: Any) -> Any:
    """Messages without keys that hold nothing: in .parquet all have the keys of all."""
    if not isinstance(messages, list):
        return messages
    return [
        {key: value for key, value in message.items() if value is not None}
        if isinstance(message, dict)
        else message
        for message in messages
    ]
