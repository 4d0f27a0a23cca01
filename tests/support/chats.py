"""Conversations, and what `Chat` makes of them."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from everytoken.batch import IGNORE_INDEX
from everytoken.corpora.columns import packed
from everytoken.data.chat import Chat
from everytoken.data.collate import Example
from everytoken.data.item import Item
from everytoken.data.objective import ExampleKey
from everytoken.tokenizer.learned import train_bpe, train_byte, train_char
from everytoken.tokenizer.tokenizer import Tokenizer

TEXTS = ["user\nassistant model system tool", "Which year? 1998-02-07", "hello hello <|im_end|>"]
TRAINED = {
    "char": train_char(TEXTS),
    "byte": train_byte([]),
    "bpe": train_bpe(TEXTS * 3, vocabulary_size=300),
}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "ü<>"}}}
OWN = "{% for m in messages %}{{ m.role + ':' + m.content + eos_token }}{% endfor %}"
OWN += "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"


@cache
def chat(template: str | None = "chatml", kind: str = "byte", **settings: Any) -> Chat:
    return made(TRAINED[kind], template, **settings)


def made(tokenizer: Tokenizer, template: str | None = None, **more: Any) -> Chat:
    given = {"learn": "all_answers", "max_tokens": 1000, "long": "refuse", "today": "2024-07-26"}
    return Chat(tokenizer.special, len(tokenizer), tokenizer, template, **{**given, **more})


def templated(text: str, kind: str = "byte") -> Chat:
    """With a template that is the tokenizer's own."""
    kept = TRAINED[kind]
    return made(Tokenizer(kept.engine, kept.special, chat_template=text))


def said(*texts: str, system: str | None = None) -> list[dict[str, Any]]:
    first = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return first + [{"role": roles[i % 2], "content": t} for i, t in enumerate(texts)]


def items(objective: Chat, messages: Sequence[Any], tools: Any = None) -> list[Item]:
    field = packed(messages if tools is None else {"messages": messages, "tools": tools})
    [record] = objective.encode([{"messages": field}], lambda i: f"example {i}")
    return objective.items(record)


def example(objective: Chat, messages: Sequence[Any], tools: Any = None) -> Example:
    [item] = items(objective, messages, tools)
    return objective.example(item, ExampleKey(0, 0, 0))


def shown(objective: Chat, messages: Sequence[Any], tools: Any = None) -> str:
    """All that is read and learned, the names of tokens included; what is learned in [[ ]]."""
    found = example(objective, messages, tools)
    ids = [*found.input_ids.tolist(), int(found.labels[-1])]
    learned = [False, *(found.labels != IGNORE_INDEX).tolist()]
    assert all(
        label in (IGNORE_INDEX, id_) for label, id_ in zip(found.labels, ids[1:], strict=True)
    )
    text, run = "", []
    for i, id_ in enumerate(ids):
        if learned[i] and not learned[i - 1]:
            text, run = text + objective.tokenizer.decode(run) + "[[", []
        if id_ in objective.layout.markup.names.values():
            text, run = text + objective.tokenizer.decode(run) + objective.tokenizer.name(id_), []
        else:
            run.append(id_)
        if learned[i] and (i + 1 == len(ids) or not learned[i + 1]):
            text, run = text + objective.tokenizer.decode(run) + "]]", []
    return text + objective.tokenizer.decode(run)
