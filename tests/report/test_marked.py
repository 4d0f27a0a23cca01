"""Predictions on the page: entities under their names, several classes, the end of long chats."""

from everytoken.callbacks.predictions import hits
from everytoken.decoding.generate import Prediction
from everytoken.report.marked import LONGEST, shown
from everytoken.tokenizer.learned import train_char

TOKENIZER = train_char(["abcdefgh, "])
TAGGER = train_char(["abcdefgh, "])
TAGGER.labels = ["B-X", "B-Y", "I-X", "O"]
BX, BY, IX, OUT = range(4)
EOS = TOKENIZER.special.eos


def tagged(text: str, target: list[int], prediction: list[int]) -> Prediction:
    places = [i for i, letter in enumerate(text) if i == 0 or text[i - 1] == " "]
    return Prediction([*TAGGER.encode([text])[0], EOS], target, prediction, places=places)


def test_entities_stand_in_their_text_and_are_right_as_a_whole() -> None:
    found = shown(tagged("ab c , d", [BX, IX, OUT, BY], [BX, OUT, OUT, BY]), TAGGER)
    assert found["source"] == []
    assert found["target"] == [
        ("ab c", False, "X"),
        (" ", True, None),
        (", ", True, None),
        ("d", True, "Y"),
    ]
    assert found["prediction"][0] == ("ab", False, "X")
    assert ("d", True, "Y") in found["prediction"]
    for side in ("target", "prediction"):
        assert "".join(text for text, *_ in found[side]) == "ab c , d"


def test_tags_without_a_scheme_are_marked_word_by_word() -> None:
    tagger = train_char(["abcdefgh, "])
    tagger.labels = ["noun", "verb"]
    found = shown(tagged("ab c", [0, 1], [0, 0]), tagger)
    assert found["target"] == [("ab", True, "noun"), (" ", True, None), ("c", False, "verb")]


def test_of_a_long_text_the_beginning_is_shown() -> None:
    text = "ab " * LONGEST
    found = shown(tagged(text, [BX] * LONGEST, [BX] * LONGEST), TAGGER)
    whole = "".join(part for part, *_ in found["target"])
    assert whole == text[:LONGEST] + "…"


def test_of_a_long_chat_the_last_question_is_shown() -> None:
    chat = TOKENIZER.encode(["a" * 100 + "bcd"])[0]
    found = shown(Prediction(chat, [5], [5], goes_on=True), TOKENIZER)
    assert "".join(part for part, _ in found["source"]) == "…" + "a" * (LONGEST - 3) + "bcd"
    found = shown(Prediction(chat, [5], [5]), TOKENIZER)  # of a translation the beginning
    assert "".join(part for part, _ in found["source"]) == "a" * LONGEST + "…"


def test_several_classes_are_right_wherever_they_stand() -> None:
    example = Prediction([TAGGER.special.bos, 5, EOS], [0, 1, 3], [1, 3])
    assert hits(example) == ([False, True, True], [True, True])
    assert shown(example, TAGGER)["source"]
    assert shown(example._replace(prediction=[]), TAGGER)["prediction"] == []
