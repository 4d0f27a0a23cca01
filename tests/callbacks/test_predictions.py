"""Predictions to look at: which tokens are right, and how that is shown."""

import pytest
from rich.text import Text

from everytoken.callbacks.predictions import hits, pieces, predictions_table
from everytoken.decoding.generate import Prediction
from everytoken.runtime.console import console
from everytoken.tokenizer.learned import train_char

TOKENIZER = train_char(["abcdefgh\n"])


def ids(text: str) -> list[int]:
    return TOKENIZER.encode([text])[0]


def marks(right: list[bool]) -> str:
    return "".join("+" if ok else "-" for ok in right)


@pytest.mark.parametrize(
    ("target", "prediction", "found", "right"),
    [
        ("abc", "abc", "+++", "+++"),
        ("abc", "axc", "+-+", "+-+"),
        ("abcd", "bcd", "-+++", "+++"),  # what was left out is one mistake
        ("abc", "xabc", "+++", "-+++"),  # so is one too many
        ("abc", "", "---", ""),
    ],
)
def test_a_generated_text_is_aligned_with_its_target(
    target: str, prediction: str, found: str, right: str
):
    example = Prediction([], ids(target), ids(prediction))
    assert tuple(map(marks, hits(example))) == (found, right)


def test_a_prediction_of_each_target_is_right_only_at_its_place():
    example = Prediction([], ids("abcd"), ids("bcda"))
    assert tuple(map(marks, hits(example._replace(places=[0, 1, 2, 3])))) == ("----", "----")


def test_pieces_join_to_the_text_and_end_where_it_is_long():
    right = [True, True, False, True]
    assert pieces(ids("abcd"), right, TOKENIZER, 9) == [("ab", True), ("c", False), ("d", True)]
    assert pieces(ids("abcd"), right, TOKENIZER, 3) == [("ab", True), ("c", False), ("…", True)]
    assert pieces([], [], TOKENIZER, 3) == []


def test_the_table_shows_texts_and_marks_what_is_wrong():
    right = Prediction(ids("ab"), ids("abc"), ids("abc"))
    wrong = Prediction(ids("a\nb"), ids("abc"), ids("ac"))
    odd = Prediction(ids("a"), ids("abc"), ids("adc"))
    table = predictions_table([right, wrong, odd], TOKENIZER)
    with console.capture() as shown:
        console.print(table)
    assert "a⏎b" in shown.get()
    cells = [cell for cell in table.columns[1].cells if isinstance(cell, Text)]
    styles = [[str(span.style) for span in cell.spans] for cell in cells[2::3]]
    assert styles == [["green"], ["green"], ["green", "red", "green"]]


def test_nothing_stands_behind_a_text_whose_width_terminals_disagree_on():
    bengali = "১৮ মঙ্গলবার"
    tokenizer = train_char([bengali + "abc"])
    source = tokenizer.encode([bengali])[0]
    example = Prediction(source, tokenizer.encode(["abc"])[0], tokenizer.encode(["abd"])[0])
    with console.capture() as shown:
        console.print(predictions_table([example], tokenizer))
    lines = [line.rstrip() for line in shown.get().splitlines()]
    assert f"source      {bengali}" in lines


def test_a_language_model_reads_its_target_which_is_shown_once():
    text = ids("abcd")
    example = Prediction([TOKENIZER.special.bos, *text[:-1]], text, text)
    with console.capture() as shown:
        console.print(predictions_table([example._replace(places=[0, 1, 2, 3])], TOKENIZER))
    assert [line.split()[0] for line in shown.get().split("\n") if line.strip()] == [
        "target",
        "prediction",
    ]


def test_a_wrong_token_that_is_hidden_elsewhere_is_named():
    bos = TOKENIZER.special.bos
    prediction = [bos, *ids("bc"), bos]
    right = [False, True, True, False]
    name = TOKENIZER.engine.id_to_token(bos)
    found = pieces(prediction, right, TOKENIZER, 9)
    assert found == [(name, False), ("bc", True), (name, False)]
    assert pieces([*ids("a"), TOKENIZER.special.eos], [True, True], TOKENIZER, 9) == [("a", True)]


def test_what_would_drive_a_terminal_is_shown_in_the_table():
    hostile = "a\x1b[2Jb"
    tokenizer = train_char([hostile])
    text = tokenizer.encode([hostile])[0]
    with console.capture() as shown:
        console.print(predictions_table([Prediction(text, text, text)], tokenizer))
    assert shown.get().count(r"a\x1b[2Jb") == 3
    assert "\x1b" not in shown.get()


def test_a_long_text_is_shortened_in_the_table():
    long = ids("a" * 1000)
    with console.capture() as shown:
        console.print(predictions_table([Prediction(long, long, long)], TOKENIZER))
    assert "…" in shown.get()
    assert shown.get().count("a") < 400
