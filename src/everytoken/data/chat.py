"""Chats: read all of a conversation, learn what the assistant says and where it stops.

A conversation is written by a chat template, and each learned part of it is encoded apart from what
is read. So no token spans a border, and what training reads before an answer are the tokens that
are read when the answer is asked for.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from everytoken.batch import IGNORE_INDEX
from everytoken.corpora.conversations import Conversation
from everytoken.data.chat_template import ChatTemplate
from everytoken.data.collate import Example
from everytoken.data.item import Item, Reference
from everytoken.data.laid_out import Laid, Layout, Learn
from everytoken.data.named_templates import NAMED
from everytoken.data.objective import ExampleKey, Long
from everytoken.errors import UserError
from everytoken.runtime.console import warn
from everytoken.tokenizer.markup import Markup, extended
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.tokenizer import Tokenizer

LongChat = Literal["truncate_left", "truncate_right", "drop", "refuse"]
"""What becomes of a conversation that is too long: its first or last turns go, or all of it."""

DEFAULT = "chatml"
"""The template of a tokenizer that has none."""

PROBE = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]


class Chat:
    """Predict each token of the answers of a conversation, and the end of each.

    Args:
        special: ids of the special tokens of the tokenizer as it is given.
        vocabulary: V of that.
        tokenizer: what it lacks of the template's markup is added, see `self.tokenizer`.
        template: a name in `NAMED`, or a file; None for the tokenizer's own, or else `DEFAULT`.
        learn: "all_answers", or the "last_answer" only.
        max_tokens: most positions of an example.
        long: what becomes of longer ones, see `LongChat`.
        today: what a template that asks for the date is told, as 2024-07-26.

    Raises:
        UserError: a template that isn't there, or that doesn't say where an answer ends.
    """

    has_source = False
    limit = "max_tokens"
    cut = "truncate_left, truncate_right"
    """Choices of `long` by which a part is kept."""

    def __init__(
        self,
        special: SpecialIds,
        vocabulary: int,
        tokenizer: Tokenizer,
        template: str | None,
        learn: Learn,
        max_tokens: int,
        long: LongChat,
        today: str,
    ) -> None:
        self.learn: Learn = learn
        self.max_tokens = max_tokens
        self.long: Long = long
        self.today = date.fromisoformat(today)
        self.tokenizer, self.layout = self._prepared(tokenizer, template)
        """The tokenizer with the template and its markup; and what writes conversations."""
        self.special = self.tokenizer.special
        self.end_name = self.tokenizer.name(self.special.eos)

    def encode(
        self, examples: Sequence[Mapping[str, str]], place: Callable[[int], str]
    ) -> Iterator["Chatted"]:
        """Conversations in tokens.

        Raises:
            UserError: what is no conversation, or what the template can't write.
        """
        talks = [_unpacked(texts["messages"], place(i)) for i, texts in enumerate(examples)]
        laid = [self.layout.lay_out(talk, place(i)) for i, talk in enumerate(talks)]
        encoded = self._encoded(laid)
        for i, parts in enumerate(zip(talks, laid, encoded, strict=True)):
            yield Chatted(*parts, place(i))

    def is_too_long(self, record: "Chatted") -> bool:
        """True if what is read and learned doesn't fit in."""
        return record.positions > self.max_tokens

    def items(self, record: "Chatted") -> list[Item]:
        """One item, up to the end of the last answer; none if there is no answer."""
        if self.is_too_long(record) and self.long.startswith("truncate"):
            shorter = self._shorter(record)
            return [] if shorter is None else self.items(shorter)
        if not record.laid.answers:
            return []
        ids = np.array(record.kept, dtype=np.int32)
        labels = np.full_like(ids, IGNORE_INDEX)
        begin = 0
        for own, learned in record.encoded:
            if learned:
                labels[begin : begin + len(own)] = own
            begin += len(own)
        last = len(record.encoded[-1][0])
        texts = [self._without_end(record.laid.text[slice(*a)]) for a in record.laid.answers]
        reference = Reference(
            record=0,
            prompt_tokens=len(ids) - last,
            answer_tokens=last,
            byte_count=sum(len(text.encode()) for text in texts),
            text=texts[-1],
        )
        return [Item(ids, reference=reference, labels=labels)]

    def real_count(self, item: Item) -> int:
        """Inputs."""
        return len(item.ids) - 1

    def example(self, item: Item, key: ExampleKey) -> Example:
        """Inputs and, one position ahead, labels of the answers."""
        assert item.labels is not None
        return Example(item.ids[:-1], item.labels[1:])

    def ask(self, conversation: Conversation, place: str) -> Example:
        """A conversation to which an answer is to be generated.

        Raises:
            UserError: as `encode` does.
        """
        if mistake := conversation.mistake():
            raise UserError(f"{place} {mistake}")
        laid = self.layout.open(conversation, place)
        inputs = np.array([id_ for own, _ in self._encoded([laid])[0] for id_ in own])
        return Example(inputs, np.full_like(inputs, IGNORE_INDEX))

    def prompt(self, ids: list[int]) -> Example:
        """A text as the only message of a user."""
        message = {"role": "user", "content": self.tokenizer.decode(ids)}
        return self.ask(Conversation([message]), "the text")

    def _prepared(self, tokenizer: Tokenizer, template: str | None) -> tuple[Tokenizer, Layout]:
        named = NAMED.get(template or "")
        if template is None and tokenizer.chat_template is None:
            named = NAMED[DEFAULT]
        if named:
            text, name = named.text, template or DEFAULT
            tokenizer = extended(tokenizer, named.tokens)
        else:
            text, name = _own(tokenizer, template)
        markup = Markup(tokenizer)
        roles = tokenizer.special._asdict().items()
        tokens = {f"{r}_token": tokenizer.name(id_) for r, id_ in roles if id_ is not None}
        written = ChatTemplate(text, name, tokens, self.today)
        end = named.end if named and named.end else _end(written, markup)
        if end != tokens["eos_token"] and "eos_token" in text:
            # The token that ends a turn becomes the end of what is generated.
            text = f"{{%- set eos_token = {tokens['eos_token']!r} %}}" + text
            written = ChatTemplate(text, name, tokens, self.today)
        tokenizer = extended(tokenizer, [], end, text)
        layout = Layout(written, Markup(tokenizer), end, self.learn)
        if not named:
            layout.check_opening(PROBE)
        return tokenizer, layout

    def _encoded(self, laid: Sequence[Laid]) -> list[list[tuple[list[int], bool]]]:
        """Token ids of the parts of each, and whether they are learned."""
        markup = self.layout.markup
        cut = [(one, span, learned) for one in laid for span, learned in one.parts()]
        parts = [
            markup.parts(
                one.text[slice(*span)],
                [(begin - span.begin, end - span.begin) for begin, end in one.as_text],
            )
            for one, span, _ in cut
        ]
        ids = iter(zip(markup.encode(parts), (learned for *_, learned in cut), strict=True))
        return [[next(ids) for _ in one.parts()] for one in laid]

    def _without_end(self, text: str) -> str:
        return text.removesuffix(self.end_name)

    def _shorter(self, record: "Chatted") -> "Chatted | None":
        """The same with so many turns left out that it fits in; None if none does."""
        for talk in _with_fewer_turns(record.talk, self.long):
            laid = self.layout.lay_out(talk, record.place)
            [encoded] = self._encoded([laid])
            found = Chatted(talk, laid, encoded, record.place)
            if laid.answers and not self.is_too_long(found):
                return found
        return None


class Chatted(NamedTuple):
    """A conversation in tokens."""

    talk: Conversation
    laid: Laid
    encoded: list[tuple[list[int], bool]]
    """Token ids, and whether they are learned, part by part."""
    place: str
    """What it is, in words."""

    @property
    def kept(self) -> list[int]:
        """Token ids up to the end of the last answer."""
        return [id_ for own, _ in self.encoded for id_ in own]

    ids = kept

    @property
    def positions(self) -> int:
        """Inputs: the last token is predicted only."""
        return sum(len(own) for own, _ in self.encoded) - 1


def _unpacked(text: str, place: str) -> Conversation:
    try:
        return Conversation.unpacked(text)
    except ValueError as error:
        raise UserError(f"{place} {error}") from error


def _own(tokenizer: Tokenizer, template: str | None) -> tuple[str, str]:
    """The tokenizer's own template, or that of a file, and what it is called.

    What is read from a file begins with the file's name, so that a run goes on with what it was
    begun with.
    """
    own = tokenizer.chat_template
    if template is None:
        assert own is not None
        return own, "of the tokenizer"
    file, head = Path(template).expanduser(), f"{{#- {template} -#}}"
    begun = own if own and head in own else None
    try:
        text = head + file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if begun is not None:
            return begun, template
        raise UserError(
            f"task.objective.template={template} is none of {', '.join(NAMED)}, and no file that "
            f"can be read ({error}): give one of these, or null for the tokenizer's own"
        ) from error
    if begun is not None and not begun.endswith(text):
        warn(
            f"{template} isn't what it was when the tokenizer was made: its own is used; to use "
            "what the file says now, give the file another name"
        )
    return begun or text, template


def _end(template: ChatTemplate, markup: Markup) -> str:
    """The name of the token that a template writes after an answer.

    Raises:
        UserError: there is none.
    """
    text = template.render(PROBE, None, "a question and its answer").text
    after = text.rpartition(PROBE[1]["content"])[2]
    found = markup.pattern.search(after)
    if not found:
        raise UserError(
            f"the chat template {template.name} writes no special token of the tokenizer after an "
            f"answer ({after[:40]!r} follows it), so no answer would end: choose another by "
            "task.objective.template, or a tokenizer that has its tokens"
        )
    return found.group()


def _with_fewer_turns(talk: Conversation, long: Long) -> Iterable[Conversation]:
    """A conversation without its first turns, or its last, one after the other.

    A turn begins with a message of a user; what stands before the first one stays.
    """
    starts = [i for i, message in enumerate(talk.messages) if message["role"] == "user"]
    for at, start in enumerate(starts[1:], start=1):
        if long == "truncate_left":
            kept = [*talk.messages[: starts[0]], *talk.messages[start:]]
        else:
            kept = talk.messages[: starts[-at]]
        yield talk._replace(messages=kept)
