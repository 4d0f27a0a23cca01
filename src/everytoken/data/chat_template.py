"""A chat template: Jinja in a sandbox, with what transformers gives one.

Where a template has `{% generation %}` around what an assistant writes, it says what is learned.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from everytoken.errors import UserError, one_line

Message = Mapping[str, Any]
"""Of a conversation: "role", "content", and what else the template reads."""

OPEN, CLOSE = "\0{", "\0}"
"""Around what `{% generation %}` encloses; no text holds a NUL."""

MARKS = re.compile(r"\0([{}])")


class Rendered(NamedTuple):
    """A conversation as text."""

    text: str
    generated: list[tuple[int, int]]
    """Where what `{% generation %}` encloses begins and ends, in characters."""


class ChatTemplate:
    """Renders conversations.

    Args:
        source: in Jinja.
        name: what it is called in messages.
        tokens: names of special tokens, as "bos_token": what a template may write.
        today: what it is told if it asks for the date: what it writes must not change by the day.

    Raises:
        UserError: no Jinja.
    """

    def __init__(self, source: str, name: str, tokens: Mapping[str, str], today: date) -> None:
        self.source = source
        self.name = name
        self.tokens = tokens
        self.today = today
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = today.strftime
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise UserError(
                f"the chat template {name} is no Jinja (line {error.lineno}: {error.message}): "
                "mend it, or choose another by task.objective.template"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Compiled again where it is unpickled, as in loader processes that aren't forks."""
        return type(self), (self.source, self.name, self.tokens, self.today)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None,
        place: str,
        *,
        opens: bool = False,
    ) -> Rendered:
        """A conversation as text.

        Args:
            messages: of which it consists.
            tools: which may be called; None for none.
            place: what it is, in words, for a message.
            opens: True to open an answer after it.

        Raises:
            UserError: the template refuses it, or can't do it.
        """
        try:
            text = self._template.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=opens,
                **self.tokens,
            )
        except Exception as error:  # whatever Jinja or what it calls raises
            reason = one_line(error) if isinstance(error, TemplateError) else repr(error)
            raise UserError(
                f"{place}: the chat template {self.name} can't write it ({reason}): mend the "
                "conversation, or choose another template by task.objective.template"
            ) from error
        return _unmarked(text)


class _Generation(Extension):
    """`{% generation %}`, which encloses what an assistant writes."""

    tags = {"generation"}  # noqa: RUF012 (as the library has it)

    def parse(self, parser: Parser) -> nodes.Node:
        """The marks around its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Macro) -> str:
        return OPEN + caller() + CLOSE


def _unmarked(text: str) -> Rendered:
    parts = MARKS.split(text)  # text, mark, text, …
    spans: list[tuple[int, int]] = []
    length = len(parts[0])
    for mark, part in zip(parts[1::2], parts[2::2], strict=True):
        begin = length if mark == OPEN[1:] else spans.pop()[0]
        spans.append((begin, length))
        length += len(part)
    return Rendered("".join(parts[::2]), spans)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """Jinja's own writes < and > in another way."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
