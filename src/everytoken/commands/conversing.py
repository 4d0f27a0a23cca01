"""Conversations that are answered: lines of a file, or one at a terminal, turn by turn."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, TextIO

from everytoken.commands.answers import Answerer
from everytoken.commands.lines import Screen, lines
from everytoken.corpora.chats import question
from everytoken.corpora.conversations import ASSISTANT, Conversation
from everytoken.corpora.tables import parsed
from everytoken.errors import UserError
from everytoken.runtime.signals import interruptible

ENDINGS = (".jsonl", ".ndjson")
"""Of files with a conversation in each line."""

PROMPT = "> "


def answered(answerer: Answerer, texts: Iterable[str], name: str, batch_size: int) -> Iterator[str]:
    """Lines of JSON with a conversation each → the same with `messages` that end with an answer.

    Args:
        answerer: of a model that was trained on conversations.
        texts: the lines; blank ones are left out.
        name: what to call them in messages.
        batch_size: conversations that are answered together.

    Raises:
        UserError: a line without a conversation, or with one that ends with an answer.
    """
    asked: deque[tuple[dict[str, Any], Conversation]] = deque()

    def conversations() -> Iterator[Conversation]:
        for number, text in enumerate(texts, start=1):
            if text.strip():
                place = f"{name}, line {number}"
                row = parsed(text, place)
                talk = question(row, place)
                if talk.messages[-1]["role"] == ASSISTANT:
                    raise UserError(
                        f"{place}: the conversation ends with an answer: leave that out, and "
                        "another is given"
                    )
                asked.append((row, talk))
                yield talk

    for answer in answerer.answers(conversations(), batch_size):
        row, talk = asked.popleft()
        messages = [*talk.messages, {"role": ASSISTANT, "content": answer}]
        others = {key: value for key, value in row.items() if key != "conversations"}
        yield json.dumps({**others, "messages": messages}, ensure_ascii=False)


def converse(
    answerer: Answerer,
    incoming: BinaryIO,
    outgoing: TextIO | Screen,
    shown: Callable[[str], str],
    *,
    stream: bool,
    prompts: bool,
) -> None:
    """One conversation: each line is the user's, and is answered with all that was said before.

    Ctrl-C ends an answer, which stays as far as it went; the end of the input, the conversation.

    Args:
        answerer: of a model that was trained on conversations.
        incoming: lines.
        outgoing: where answers go.
        shown: what becomes of a text before that.
        stream: True for answers piece by piece.
        prompts: True to show where the user's line is expected.
    """
    said: list[dict[str, Any]] = []
    with interruptible():
        while True:
            try:
                if prompts:
                    outgoing.write(PROMPT)
                    outgoing.flush()
                line = next(lines(incoming, "the input"), None)
            except KeyboardInterrupt:
                outgoing.write("\n")
                continue
            if line is None:
                break
            if not line.strip():
                continue
            said.append({"role": "user", "content": line})
            answer = ""
            try:
                for piece in _pieces(answerer, Conversation([*said]), len(said), stream):
                    answer += piece
                    outgoing.write(shown(piece))
                    outgoing.flush()
            except KeyboardInterrupt:
                pass  # what was answered so far stays
            outgoing.write("\n")
            outgoing.flush()
            said.append({"role": ASSISTANT, "content": answer})
            if Conversation(said).mistake():  # nothing was answered, or nothing that can be read
                del said[-2:]


def _pieces(answerer: Answerer, talk: Conversation, key: int, stream: bool) -> Iterator[str]:
    return answerer.stream(talk, key) if stream else answerer.answers([talk], 1)
