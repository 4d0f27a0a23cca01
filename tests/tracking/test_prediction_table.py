"""Predictions as HTML: what is right is green, what is wrong is red, and nothing is markup."""

from everytoken.decoding.generate import Prediction
from everytoken.tokenizer.learned import train_char
from everytoken.tracking.prediction_table import COLOURS, coloured, rows_of

GREEN, RED = (f'<span style="color:{COLOURS[right]}">' for right in (True, False))
TOKENIZER = train_char(["abcx<&>"])


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode([text])[0])


def body(prediction: str, target: str) -> str:
    html = coloured(ids(prediction), ids(target), TOKENIZER)
    return html.removeprefix('<pre style="white-space:pre-wrap;margin:0">').removesuffix("</pre>")


def test_each_token_has_its_colour():
    assert body("abc", "abc") == f"{GREEN}abc</span>"
    assert body("axc", "abc") == f"{GREEN}a</span>{RED}x</span>{GREEN}c</span>"
    assert body("abcx", "ab") == f"{GREEN}ab</span>{RED}cx</span>"  # too long
    assert body("a", "abc") == f"{GREEN}a</span>"
    assert body("", "abc") == ""


def test_what_looks_like_markup_is_text():
    assert body("<b>", "<bc") == f"{GREEN}&lt;b</span>{RED}&gt;</span>"


def test_rows_tell_whether_all_is_right():
    one, other = Prediction(ids("ab"), ids("c"), ids("c")), Prediction([], ids("c"), ids("cc"))
    right, wrong = rows_of([one, other], TOKENIZER)
    assert (right.source, right.target, right.right) == ("ab", "c", True)
    assert (wrong.source, wrong.target, wrong.right) == ("", "c", False)


def test_a_wrong_end_is_named_so_that_nothing_slides_into_its_place():
    end = TOKENIZER.special.eos
    html = coloured([*ids("a"), end, *ids("c"), end], [*ids("abc"), end], TOKENIZER)
    assert "&lt;eos&gt;" in html
    assert html.count(RED) == html.count("&lt;eos&gt;") == 1


def test_what_a_language_model_reads_is_not_its_target_again():
    (row,) = rows_of([Prediction([1, *ids("ab")], [*ids("ab"), 2], [*ids("ab"), 2])], TOKENIZER)
    assert (row.source, row.target) == ("", "ab")


def test_what_is_right_may_be_a_matter_of_texts():
    (row,) = rows_of([Prediction([], ids("a"), ids("a"), False)], TOKENIZER)
    assert not row.right
