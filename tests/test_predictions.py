"""The table of predictions."""

from everytoken.console import console
from everytoken.module import Prediction
from everytoken.predictions import predictions_table
from everytoken.tokenizer import train_char


def test_the_table_shows_texts_and_marks_what_is_wrong():
    tokenizer = train_char(["abc\n"])
    ids = {text: tokenizer.encode([text])[0] for text in ("ab", "abc", "a\nb", "c")}
    right = Prediction(ids["ab"], ids["abc"], ids["abc"])
    wrong = Prediction(ids["a\nb"], ids["abc"], ids["c"])
    table = predictions_table([right, wrong], tokenizer)
    with console.capture() as shown:
        console.print(table)
    assert "a⏎b" in shown.get()
    styles = [str(cell.style) for cell in table.columns[2]._cells]  # pyright: ignore
    assert styles == ["green", "red"]


def test_a_long_text_is_shortened_in_the_table():
    tokenizer = train_char(["x"])
    ids = tokenizer.encode(["x" * 1000])[0]
    with console.capture() as shown:
        console.print(predictions_table([Prediction(ids, ids, ids)], tokenizer))
    assert "…" in shown.get()
    assert shown.get().count("x") < 400
