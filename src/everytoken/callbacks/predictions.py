"""Predictions to look at: after each validation as a table, and in the report."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

import lightning as L
from rich.table import Table
from rich.text import Text

from everytoken.data.datamodule import TokenDataModule
from everytoken.decoding.generate import Prediction, reads_its_target, spread
from everytoken.runtime.console import log
from everytoken.runtime.visible import visible
from everytoken.tokenizer.names import Names
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.module import TokenModule

LONGEST = 60
"""Tokens that the table shows of a text."""


class Piece(NamedTuple):
    """Neighbouring tokens of a text that are all right or all wrong."""

    text: str
    is_right: bool


class ShowPredictions(L.Callback):
    """Prints a few examples after each validation: source, target and prediction.

    Args:
        rows: how many.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table."""
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        assert isinstance(pl_module, TokenModule)
        assert isinstance(data, TokenDataModule)
        shown = spread(pl_module.evaluated.predictions, self.rows)
        log(predictions_table(shown, data.tokenizer))


def predictions_table(predictions: Sequence[Prediction], tokenizer: Tokenizer) -> Table:
    """Source, target and prediction below each other; tokens of the prediction green or red.

    Not beside each other: terminals don't agree on how wide a letter of Bengali or Kannada is, so
    nothing may stand behind a text. A source that is only what its target is made of is left out.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for example in predictions:
        _, right = hits(example)
        if source := source_pieces(example, tokenizer, LONGEST):
            table.add_row("source", Text(_one_line(_joined(source))))
        target = pieces(example.target, [True] * len(example.target), tokenizer.targets, LONGEST)
        table.add_row("target", Text(_one_line(_joined(target))))
        shown = pieces(example.prediction, right, tokenizer.targets, LONGEST)
        styled = [(_one_line(text), "green" if ok else "red") for text, ok in shown]
        table.add_row("prediction", Text.assemble(*styled))
        table.add_row()
    return table


def hits(example: Prediction) -> tuple[list[bool], list[bool]]:
    """Which tokens of the target were found, and which of the prediction are right.

    What doesn't stand at its target's place is aligned with it: a token too many is one mistake.
    """
    target, prediction = example.target, example.prediction
    if example.places is not None:
        right = [a == b for a, b in zip(target, prediction, strict=True)]
        return right, right
    found, right = [False] * len(target), [False] * len(prediction)
    matcher = SequenceMatcher(None, target, prediction, autojunk=False)
    for at, where, size in matcher.get_matching_blocks():
        found[at : at + size] = right[where : where + size] = [True] * size
    return found, right


def pieces(ids: Sequence[int], right: Sequence[bool], names: Names, longest: int) -> list[Piece]:
    """A text cut where right tokens meet wrong ones; of more than `longest` tokens the first."""
    count = min(len(ids), longest)
    # Those in a wrong place are named: hidden, they would let what follows slide into place.
    kinds = [(right[i], not right[i] and ids[i] in names.hidden) for i in range(count)]
    borders = [i for i in range(1, count) if kinds[i] != kinds[i - 1]]
    found, before = [], ""
    for begin, end in zip([0, *borders], [*borders, count], strict=True):
        text = names.show(ids[:end])  # a token's text may depend on those before it
        if end > begin and kinds[begin][1]:
            found.append(Piece("".join(map(names.name, ids[begin:end])), False))
        elif end > begin:
            found.append(Piece(text[len(before) :], right[begin]))
        before = text
    if count < len(ids):
        found.append(Piece("…", True))
    return found


def source_pieces(example: Prediction, tokenizer: Tokenizer, longest: int) -> list[Piece]:
    """What was read, for the eye: its beginning; or its end, if the prediction goes on with it.

    Nothing, if it is only what the target is made of.
    """
    ids = [] if reads_its_target(example, tokenizer) else example.source
    if not example.goes_on or len(ids) <= longest:
        return pieces(ids, [True] * len(ids), tokenizer, longest)
    return [Piece("…", True), *pieces(ids[-longest:], [True] * longest, tokenizer, longest)]


def _joined(parts: Sequence[Piece]) -> str:
    return "".join(text for text, _ in parts)


def _one_line(text: str) -> str:
    return visible(text.replace("\n", "⏎"))
