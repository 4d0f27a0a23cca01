"""Predictions as rows of a table of a web page, each token coloured by right or wrong."""

from collections.abc import Sequence
from html import escape
from itertools import groupby, zip_longest
from typing import NamedTuple

from everytoken.decoding.generate import Prediction
from everytoken.tokenizer.tokenizer import Tokenizer

COLUMNS = ("source", "target", "prediction", "all right")
COLOURS = {True: "#15803d", False: "#dc2626"}
"""Green for a token that is the target's at its place, red for another."""


class Row(NamedTuple):
    """One example."""

    source: str
    target: str
    prediction: str
    """HTML."""
    right: bool
    """True if the prediction is the target."""


def rows_of(predictions: Sequence[Prediction], tokenizer: Tokenizer) -> list[Row]:
    """A row for each prediction."""
    return [
        Row(
            tokenizer.show(one.source),
            tokenizer.show(one.target),
            coloured(one.prediction, one.target, tokenizer),
            one.prediction == one.target,
        )
        for one in predictions
    ]


def coloured(prediction: Sequence[int], target: Sequence[int], tokenizer: Tokenizer) -> str:
    """HTML of predicted tokens: green where the target has the same token, red where it has not."""
    pairs = list(zip_longest(prediction, target))[: len(prediction)]
    parts = []
    # Tokens of one colour are shown together, for one alone may be part of a character.
    for right, group in groupby(pairs, key=lambda pair: pair[0] == pair[1]):
        text = escape(tokenizer.show(token for token, _ in group))
        parts.append(f'<span style="color:{COLOURS[right]}">{text}</span>')
    return f'<pre style="white-space:pre-wrap;margin:0">{"".join(parts)}</pre>'
