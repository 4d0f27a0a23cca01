"""Predictions as rows of a table of a web page, each token coloured by right or wrong."""

from collections.abc import Sequence
from html import escape
from itertools import groupby, zip_longest
from typing import NamedTuple

from everytoken.decoding.generate import Prediction, reads_its_target
from everytoken.tokenizer.names import Names
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
            "" if reads_its_target(one, tokenizer) else tokenizer.show(one.source),
            tokenizer.targets.show(one.target),
            coloured(one.prediction, _beside(one, tokenizer), tokenizer.targets),
            one.prediction == one.target if one.is_right is None else one.is_right,
        )
        for one in predictions
    ]


def _beside(one: Prediction, tokenizer: Tokenizer) -> list[int]:
    """The target; of several classes those that were told where they were, and -1 at others."""
    if one.places is not None or not tokenizer.labels:
        return one.target
    return [id_ if id_ in one.target else -1 for id_ in one.prediction]


def coloured(prediction: Sequence[int], target: Sequence[int], names: Names) -> str:
    """HTML of predicted tokens: green where the target has the same token, red where it has not."""
    pairs = list(zip_longest(prediction, target))[: len(prediction)]

    def kind(pair: tuple[int, int]) -> tuple[bool, bool]:
        """If a token is right; and if it must be named, or what follows it would slide."""
        right = pair[0] == pair[1]
        return right, not right and pair[0] in names.hidden

    parts = []
    # Tokens of one colour are shown together, for one alone may be part of a character.
    for (right, is_named), group in groupby(pairs, key=kind):
        ids = [token for token, _ in group]
        text = escape("".join(map(names.name, ids)) if is_named else names.show(ids))
        parts.append(f'<span style="color:{COLOURS[right]}">{text}</span>')
    return f'<pre style="white-space:pre-wrap;margin:0">{"".join(parts)}</pre>'
