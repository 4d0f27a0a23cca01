"""A conversation as a template writes it, and where in that what is learned begins and ends.

Where the template says it by `{% generation %}`, it is that. Else an answer begins where the
template opens it for the messages before (`add_generation_prompt`), and ends with the token that
ends a turn. What stands after that token, a line feed say, is never learned.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from everytoken.corpora.conversations import ASSISTANT, Conversation
from everytoken.data.chat_template import ChatTemplate, Rendered
from everytoken.errors import UserError
from everytoken.tokenizer.markup import Markup

Learn = Literal["all_answers", "last_answer"]

STRIPPED = (str, str.strip, str.lstrip, str.rstrip)
"""What a template may do to a message and still be said to write it as it is."""


class Span(NamedTuple):
    """A part of a text."""

    begin: int
    end: int


class Laid(NamedTuple):
    """A text with what is learned of it."""

    text: str
    answers: list[Span]
    """What is learned, in order."""
    as_text: list[Span]
    """Messages that spell special tokens."""

    def parts(self) -> list[tuple[Span, bool]]:
        """All of the text up to the end of the last answer, and whether a part is learned."""
        borders = [0, *(place for span in self.answers for place in span)]
        spans = [Span(*pair) for pair in pairwise(borders)]
        return [(span, i % 2 == 1) for i, span in enumerate(spans) if span.begin < span.end]


class Layout:
    """Lays conversations out.

    Args:
        template: writes them.
        markup: knows the special tokens.
        end: name of the token that ends a turn.
        learn: "all_answers" or the "last_answer".
    """

    def __init__(self, template: ChatTemplate, markup: Markup, end: str, learn: Learn) -> None:
        self.template = template
        self.markup = markup
        self.end = end
        self.learn: Learn = learn

    def lay_out(self, conversation: Conversation, place: str) -> Laid:
        """A conversation and its answers.

        Args:
            conversation: without a mistake.
            place: what it is, in words.

        Raises:
            UserError: the template refuses it, or doesn't say where an answer begins or ends.
        """
        rendered = self.template.render(*conversation, place)
        as_text = self._as_text(conversation, rendered.text, place)
        places = [i for i, m in enumerate(conversation.messages) if m["role"] == ASSISTANT]
        if not places:
            return Laid(rendered.text, [], as_text)
        find = self._generated if rendered.generated else self._opened
        answers = find(conversation, places, rendered, as_text, place)
        if self.learn == "last_answer":
            answers = answers[-1:]
        return Laid(rendered.text, answers, as_text)

    def open(self, conversation: Conversation, place: str) -> Laid:
        """A conversation after which an answer is to be given; nothing of that is known yet.

        Raises:
            UserError: as `lay_out` does.
        """
        text = self.template.render(*conversation, place, opens=True).text
        before = self.lay_out(conversation, place)
        if not text.startswith(before.text):
            before = Laid(text, [], [])
        as_text = self._as_text(conversation, text, place, opens=True)
        spans = before.answers if self.learn == "all_answers" else []
        return Laid(text, [*spans, Span(len(text), len(text))], as_text)

    def check_opening(self, pair: list[dict[str, Any]]) -> None:
        """Refuse a template that writes something before answers, and doesn't open one with it.

        It would be learned. White space may stand there: some have the answer's first token so.

        Args:
            pair: a question and its answer.

        Raises:
            UserError: what it writes.
        """
        place = "a question and its answer"
        asked = Conversation(pair[:1])
        opens = self.open(asked, place).text != self.lay_out(asked, place).text
        if opens or self.template.render(pair, None, place).generated:
            return  # or the template itself says what is learned
        laid = self.lay_out(Conversation(pair), place)
        before, found, _ = laid.text[laid.answers[0].begin :].partition(pair[1]["content"])
        if found and before.strip():
            raise UserError(
                f"the chat template {self.template.name} writes {before!r} before an answer, and "
                "opens none with it (add_generation_prompt), so it would be learned: let it open "
                "answers, or put {% generation %} and {% endgeneration %} around what an "
                "assistant writes"
            )

    def _opened(
        self,
        conversation: Conversation,
        places: Sequence[int],
        rendered: Rendered,
        as_text: Sequence[Span],
        place: str,
    ) -> list[Span]:
        """Answers of a template that doesn't say where they are, as it opens them."""
        wanted = places if self.learn == "all_answers" else places[-1:]
        answers: list[Span] = []
        for i in wanted:
            begin = self._start(conversation, i, rendered.text, place)
            if begin is None or (answers and begin < answers[-1].end):
                last = (
                    ""
                    if self.learn == "last_answer"
                    else ("; task.objective.learn=last_answer asks that of the last one only")
                )
                raise UserError(
                    f"{place}: the chat template {self.template.name} writes what stands before "
                    f"message {i + 1} in another way once that is there, so nobody can say where "
                    "the answer begins: put {% generation %} and {% endgeneration %} around what "
                    f"an assistant writes{last}"
                )
            answers.append(Span(begin, self._end(rendered.text, begin, as_text, place)))
        return answers

    def _generated(
        self,
        conversation: Conversation,
        places: Sequence[int],
        rendered: Rendered,
        as_text: Sequence[Span],
        place: str,
    ) -> list[Span]:
        """What the template itself says, but for what it writes to open an answer or after it."""
        text, answers = rendered.text, list[Span]()
        for begin, end in rendered.generated:
            goes_on = bool(answers) and not text[answers[-1].end : begin].strip()
            if goes_on and text.endswith(self.end, 0, answers[-1].end):
                continue  # the end of the whole, after that of the turn
            first = answers.pop().begin if goes_on else begin
            ends = [m.end() for m in self._ends(text, begin, as_text) if m.end() <= end]
            if ends and not text[ends[-1] : end].strip():
                end = ends[-1]
            elif not ends and text.startswith(self.end, end):
                end += len(self.end)
            if first < end:
                answers.append(Span(first, end))
        if len(answers) == len(places):
            wanted = range(len(places)) if self.learn == "all_answers" else [-1]
            for i in wanted:
                begin, end = answers[i]
                opened = self._start(conversation, places[i], text, place)
                if opened is not None and begin < opened < end:
                    answers[i] = Span(opened, end)
        return answers

    def _start(self, conversation: Conversation, i: int, text: str, place: str) -> int | None:
        """Where message i begins, if the template writes what is before it as it opens it."""
        before = conversation._replace(messages=conversation.messages[:i])
        opened = self.template.render(*before, place, opens=True).text
        return len(opened) if text.startswith(opened) else None

    def _end(self, text: str, begin: int, as_text: Sequence[Span], place: str) -> int:
        """Where the token that ends a turn ends, after an answer's begin."""
        found = self._ends(text, begin, as_text)
        if not found:
            raise UserError(
                f"{place}: the chat template {self.template.name} writes no {self.end} after an "
                "answer, so none would end: choose another by task.objective.template"
            )
        return found[0].end()

    def _ends(self, text: str, begin: int, as_text: Sequence[Span]):
        found = self.markup.pattern.finditer(text, begin)
        meant = (m for m in found if m.group() == self.end)
        return [m for m in meant if not any(a < m.end() and m.start() < b for a, b in as_text)]

    def _as_text(
        self, conversation: Conversation, text: str, place: str, *, opens: bool = False
    ) -> list[Span]:
        """Where messages stand that spell special tokens, in what the template writes of them."""
        spelled: dict[int, str] = {}
        messages = [dict(message) for message in conversation.messages]
        if token := self._spelled(conversation.tools):
            raise UserError(
                f"{place}: its tools spell {token}, which can't be told from markup: take it out"
            )
        for i, message in enumerate(messages):
            others = {**message, "content": ""}
            if token := self._spelled(others):
                raise UserError(
                    f"{place}: message {i + 1} spells {token} outside of its content, where it "
                    "can't be told from markup: take it out, or leave the conversation out"
                )
            if token := self._spelled(message.get("content")):
                spelled[i] = token
                message["content"] = f"\0#{i}\0"
        if not spelled:
            return []
        hidden = self.template.render(messages, conversation.tools, place, opens=opens).text
        parts = hidden.split("\0")  # text, "#3", text, …
        spans, at = [], 0
        for before, number, after in zip(parts[::2], parts[1::2], parts[2::2], strict=False):
            content = conversation.messages[int(number[1:])]["content"]
            begin = at + len(before)
            ends = (
                begin + len(form(content))
                for form in STRIPPED
                if text.startswith(form(content), begin)
            )
            end = next((end for end in ends if text.startswith(after, end)), None)
            if end is None or not text.startswith(before, at):
                token = spelled[int(number[1:])]
                raise UserError(
                    f"{place}: message {int(number[1:]) + 1} spells {token}, and the chat template "
                    f"{self.template.name} doesn't write messages as they are, so it can't be told "
                    "from markup: leave the conversation out, or choose another template"
                )
            spans.append(Span(begin, end))
            at = end
        return spans

    def _spelled(self, value: Any) -> str:
        """A special token that is spelled in a value; "" for none."""
        if isinstance(value, str):
            found = self.markup.special_pattern.search(value)
            return found.group() if found else ""
        inside = value.values() if isinstance(value, Mapping) else value
        if isinstance(inside, str | int | float | None):
            return ""
        return next(filter(None, map(self._spelled, inside)), "")
