"""Chats about dates: true, the same at every call, and of dates that no other split has."""

import re
from datetime import date

import pytest

from everytoken.corpora.chat_dates import PHRASES, ChatDates
from everytoken.corpora.conversations import Conversation

CHATS = ChatDates(400, 60, 60, 1900, 2099, seed=1)


def talks(split: str) -> list[list[dict[str, str]]]:
    return [Conversation.unpacked(e["messages"]).messages for e in CHATS.examples(split)]


def test_they_are_the_same_at_every_call_and_others_with_another_seed():
    assert [*CHATS.examples("train")] == [*CHATS.examples("train")]
    other = ChatDates(400, 60, 60, 1900, 2099, seed=2)
    assert [*other.examples("train")] != [*CHATS.examples("train")]
    # How many there are moves none.
    more = ChatDates(500, 60, 60, 1900, 2099, seed=1)
    assert [*more.examples("train")][:400] == [*CHATS.examples("train")]


def test_each_answer_is_true():
    seen = set()
    for messages in talks("train"):
        asked = [m["content"] for m in messages[::2]]
        answers = [m["content"] for m in messages[1::2]]
        own = next(p for p in PHRASES.values() if any(_is_of(p, text) for text in asked))
        for i, (question, answer) in enumerate(zip(asked, answers, strict=True)):
            if question == own.day_first:
                seen.add("otherwise")
                assert answer == date.fromisoformat(answers[i - 1]).strftime("%d/%m/%Y")
            elif answer == own.which_year:
                seen.add("which year")
                assert asked[i + 1].isdigit()
                assert answers[i + 1].startswith(f"{asked[i + 1]}-")
            elif answer in own.places:
                seen.add("earlier")
                first, second = map(int, re.findall(r"\d{4}", question))
                assert answer == own.places[second < first] or first == second
            else:
                seen.add("convert")
                year, month, day = answer.split("-")
                assert date(int(year), int(month), int(day)).year == int(year)
                assert year in question
                assert i == 0 or asked[i] != asked[i - 1]
    assert seen == {"otherwise", "which year", "earlier", "convert"}


def _is_of(phrases, text: str) -> bool:
    """True if a text is one of a language's requests."""
    patterns = [re.escape(p).replace(r"\{\}", ".*") for p in (phrases.convert, phrases.earlier)]
    return any(re.fullmatch(pattern, text) for pattern in patterns)


def test_no_split_has_a_date_of_another():
    days = {
        split: {
            m["content"] for t in talks(split) for m in t if re.match(r"\d{4}-\d\d", m["content"])
        }
        for split in ("train", "val", "test")
    }
    assert not days["train"] & (days["val"] | days["test"])
    assert not days["val"] & days["test"]


@pytest.mark.bad_input
def test_years_and_seeds_that_make_no_sense():
    with pytest.raises(ValueError, match="years of four digits"):
        ChatDates(1, 1, 1, 99, 2099, seed=1)
    with pytest.raises(ValueError, match="seed of 0 or more"):
        ChatDates(1, 1, 1, 1900, 2099, seed=-1)
