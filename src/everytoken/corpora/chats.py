"""Conversations of files, in the forms in which they are passed around."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from everytoken.corpora.class_names import Row, named_rows
from everytoken.corpora.columns import shown
from everytoken.corpora.conversations import ASSISTANT, HEADS, Conversation, with_texts
from everytoken.corpora.file_source import FileSource
from everytoken.corpora.files import Paths
from everytoken.corpora.separated import Dialect
from everytoken.corpora.tables import TABLES, once
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

NOTHING = (None, "")
"""What a column holds that needn't hold anything."""

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
    return [*map(_turn, turns)]


def _turn(turn: Values) -> dict[str, Any]:
    said = {key: value for key, value in turn.items() if key not in ("from", "value")}
    found = {}
    if "from" in turn:
        found["role"] = SHAREGPT.get(turn["from"], turn["from"])
    if "value" in turn:
        found["content"] = turn["value"]
    for key, value in found.items():
        if said.get(key, value) != value:
            raise ValueError(f"{turn!r:.60} has a {key} and says another: keep one")
    return said | found


def _completed(row: Values) -> Any:
    return _pair(row["prompt"], row["completion"])


def _instructed(row: Values) -> Any:
    asked, more, history = row["instruction"], row.get("input"), row.get("history")
    if more not in NOTHING:
        if not isinstance(more, str):
            raise ValueError(f"has the input {more!r:.40}: give a text")
        asked = f"{asked}\n\n{more}" if isinstance(asked, str) else asked
    before = [] if history in NOTHING else _parsed(history)
    if not isinstance(before, list) or any(not _is_pair(turns) for turns in before):
        raise ValueError(f"has the history {history!r:.40}: give pairs, [[question, answer], …]")
    return [turn for turns in [*before, (asked, row["output"])] for turn in _pair(*turns)]


def _is_pair(turns: Any) -> bool:
    return isinstance(turns, list) and len(turns) == 2


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
        tools = None if row.get("tools") in NOTHING else _parsed(row["tools"])
        messages = with_texts(_without_nulls(chosen.messages(row)))
        found = Conversation(_after_system(messages, row.get("system")), tools)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error
    if mistake := found.mistake() or _weighted(found):
        raise UserError(f"{place}: {mistake}")
    return found


def _after_system(messages: Any, system: Any) -> Any:
    """Messages after what a column has for the system, which they may begin with themselves."""
    if system in NOTHING or not isinstance(messages, list):
        return messages
    said = {"role": HEADS[0], "content": system}
    first = messages[0] if messages and isinstance(messages[0], dict) else {}
    if first.get("role") not in HEADS:
        return [said, *messages]
    if first != said:
        raise ValueError("has one system message in a column and another in its messages: keep one")
    return messages


def _weighted(conversation: Conversation) -> str:
    """What is wrong with answers that are to be learned less, or not at all, in words."""
    for number, message in enumerate(conversation.messages, start=1):
        for key, usual in (("weight", 1), ("train", True)):
            if message.get(key, usual) != usual and message["role"] == ASSISTANT:
                return (
                    f"message {number} has the {key} {message[key]!r:.40}, and answers are learned "
                    "alike: learn the last ones only, by task.objective.learn=last_answer and "
                    f"messages without {key}; or leave the conversation out"
                )
    return ""


def question(row: Values, place: str) -> Conversation:
    """The conversation that a row asks an answer to, whose column it needn't have.

    Raises:
        UserError: as `conversation` does.
    """
    if not any({*form.columns} <= row.keys() for form in FORMS.values()):
        for first, *answers in (form.columns for form in FORMS.values()):
            if answers and first in row:
                found = conversation({**row, **dict.fromkeys(answers, "answer")}, None, place)
                return found._replace(messages=found.messages[:-1])
    return conversation(row, None, place)


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
        return json.loads(value, object_pairs_hook=once)
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
