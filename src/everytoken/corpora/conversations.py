"""What a conversation is: messages by turns, one of which is from the assistant."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from everytoken.corpora.columns import packed

ASSISTANT = "assistant"
"""Who answers."""

ROLES = ("system", "developer", "user", ASSISTANT, "tool")
"""Who speaks."""

HEADS = ("system", "developer")
"""Who says how to answer, and asks for no answer; anywhere."""


class Conversation(NamedTuple):
    """What is said, and what may be called."""

    messages: list[dict[str, Any]]
    """Of each "role" and "content", and what else a template reads ("tool_calls", …)."""
    tools: list[Any] | None = None
    """Descriptions of functions."""

    def packed(self) -> str:
        """As the text of a field."""
        whole = {"messages": self.messages, "tools": self.tools}
        return packed(self.messages if self.tools is None else whole)

    @classmethod
    def unpacked(cls, text: str) -> "Conversation":
        """What was packed.

        Raises:
            ValueError: it is no conversation; what is wrong, in words.
        """
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError(f"has messages that aren't JSON ({error})") from error
        whole = value if isinstance(value, dict) else {"messages": value}
        conversation = cls(with_texts(whole.get("messages", [])), whole.get("tools"))
        if mistake := conversation.mistake():
            raise ValueError(mistake)
        return conversation

    def mistake(self) -> str:
        """What is wrong with it, in words; "" for nothing. It may be without an answer."""
        if not isinstance(self.messages, list) or not self.messages:
            return f"has no messages but {self.messages!r:.40}: give a list of them"
        if not isinstance(self.tools, list | None):
            return f"has tools that are no list but {self.tools!r:.40}"
        before: str | None = None
        for number, message in enumerate(self.messages, start=1):
            if mistake := _mistake(message, before):
                return f"message {number} {mistake}"
            before = before if message["role"] in HEADS else message["role"]
        return ""


def with_texts(messages: Any) -> Any:
    """Messages whose content is a text, where it was a list of parts that are all texts."""
    if not isinstance(messages, list):
        return messages
    return [_with_text(message) if isinstance(message, dict) else message for message in messages]


def _with_text(message: dict[str, Any]) -> dict[str, Any]:
    parts = message.get("content")
    if not isinstance(parts, list) or not parts or any(map(_no_text_part, parts)):
        return message
    return {**message, "content": "".join(part["text"] for part in parts)}


def _no_text_part(part: Any) -> str:
    """What a part of a content is that is no text, in words."""
    if not isinstance(part, dict) or part.get("type") != "text":
        kind = part.get("type") if isinstance(part, dict) else part
        return f"of the type {kind!r:.40}"
    return "" if isinstance(part.get("text"), str) else f"with the text {part.get('text')!r:.40}"


def _mistake(message: Any, before: str | None) -> str:
    """What is wrong with a message, in words.

    Args:
        message: of a conversation.
        before: whose the last one before it is that is none of `HEADS`; None for nobody's.
    """
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return f'is {message!r:.40}: give an object with "role" and "content"'
    role, content = message["role"], message.get("content")
    if role not in ROLES:
        return f"has the role {role!r}: give {', '.join(ROLES[:-1])} or {ROLES[-1]}"
    parts = content if isinstance(content, list) else []
    if wrong := next(filter(None, map(_no_text_part, parts)), ""):
        return (
            f'has a part {wrong} in its content: only texts are read, {{"type": "text", "text": …}}'
        )
    calls = role == ASSISTANT and bool(message.get("tool_calls"))
    if not isinstance(content, str) and not (content is None and calls):
        return f"has the content {content!r:.40}: give a text"
    if mistake := _no_text(message):
        return mistake
    if role == ASSISTANT and before is None:
        return "is an answer, and nobody has said anything before: begin with a user's message"
    if role == ASSISTANT == before:
        return "is an answer after an answer: join both, or put a user's message between them"
    if role == ASSISTANT and not calls and not (content or "").strip():
        return "is an empty answer: fill it, or leave the conversation out"
    return ""


def _no_text(value: Any) -> str:
    """What is wrong with texts in a message, in words."""
    if isinstance(value, str):
        if "\0" in value:
            return "holds a NUL character: take it out"
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            return "holds half a surrogate pair: mend it"
        return ""
    if isinstance(value, Mapping):
        inside: Sequence[Any] = [*value.keys(), *value.values()]
    else:
        inside = value if isinstance(value, list | tuple) else ()
    return next(filter(None, map(_no_text, inside)), "")
