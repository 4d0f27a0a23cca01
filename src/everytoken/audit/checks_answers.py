"""Checks of what is learned of a conversation: its answers, from their first token to their end."""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from everytoken.audit.check import Check, Finding
from everytoken.audit.subject import EXAMPLES, Subject
from everytoken.batch import IGNORE_INDEX
from everytoken.corpora.conversations import ASSISTANT, Conversation
from everytoken.data.chat import Chat
from everytoken.data.collate import Example
from everytoken.data.objective import ExampleKey


def answers(subject: Subject) -> Finding:
    """Share of answers that aren't learned as the corpus has them, after what is read to them."""
    objective = subject.data.objective
    if not isinstance(objective, Chat):
        return Finding(0.0, note="this task has no conversations", applies=False)
    found = [
        mistake
        for texts in islice(subject.data.source.examples("train"), EXAMPLES)
        for mistake in _mistakes(objective, Conversation.unpacked(texts["messages"]))
    ]
    wrong = [*filter(None, found)]
    if not found:
        return Finding(0.0, note=f"none of {EXAMPLES} conversations is whole", applies=False)
    return Finding(len(wrong) / len(found), 0.0, wrong[0] if wrong else "")


def _mistakes(objective: Chat, talk: Conversation) -> Iterator[str]:
    """What is wrong with each answer, in words; "" for nothing."""
    [record] = objective.encode([{"messages": talk.packed()}], str)
    if objective.is_too_long(record):
        return  # it is cut, or left out
    said = [i for i, message in enumerate(talk.messages) if message["role"] == ASSISTANT]
    wanted = said if objective.learn == "all_answers" else said[-1:]
    learned = [
        answer
        for item in objective.items(record)
        for answer in _learned(objective, objective.example(item, ExampleKey(0, 0, 0)))
    ]
    if len(learned) != len(wanted):
        yield f"{len(learned)} answers are learned of {len(wanted)}, each with its end"
        return
    for i, (read, ids) in zip(wanted, learned, strict=True):
        message = talk.messages[i]
        content = objective.tokenizer.decode(
            objective.tokenizer.encode([message.get("content") or ""])[0]
        )
        text = objective.tokenizer.decode(ids)
        asked = objective.ask(talk._replace(messages=talk.messages[:i]), "a conversation")
        if not text.endswith(content) and not message.get("tool_calls"):
            yield f"{text!r:.60} is learned, and the answer is {content!r:.60}"
        elif read != asked.input_ids.tolist():
            yield "what is read before an answer isn't what is read when it is asked for"
        elif ids[-1] != objective.special.eos:
            yield f"the end of {text!r:.60} isn't learned"
        else:
            yield ""


def _learned(objective: Chat, example: Example) -> Iterator[tuple[list[int], list[int]]]:
    """What is read before each answer, and the answer's tokens."""
    input_ids, labels = example.input_ids, example.labels
    places = np.flatnonzero(labels != IGNORE_INDEX)
    ends = labels[places[:-1]] == objective.special.eos
    for own in np.split(places, np.flatnonzero((np.diff(places) > 1) | ends) + 1):
        if len(own):
            yield input_ids[: own[0] + 1].tolist(), labels[own].tolist()


CHECKS = (
    Check(
        "answers",
        "of a conversation the answers are learned, from their first token to their end",
        "`Layout`: where answers begin and end; the chat template: what it does to messages",
        answers,
    ),
)
