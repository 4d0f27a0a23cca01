"""Predictions to look at, after each validation."""

import lightning as L
from rich.table import Table
from rich.text import Text

from everytoken.console import say
from everytoken.data import TokenDataModule
from everytoken.module import Prediction, TokenModule
from everytoken.tokenizer import Tokenizer


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
        kept = pl_module.predictions  # sorted by length: short ones are to be seen too
        chosen = [kept[i * len(kept) // self.rows] for i in range(min(self.rows, len(kept)))]
        say(predictions_table(chosen, data.tokenizer))


def predictions_table(predictions: list[Prediction], tokenizer: Tokenizer) -> Table:
    """Source, target and prediction side by side; a prediction is green where it is right."""
    table = Table("source", "target", "prediction", show_edge=False, pad_edge=False)
    for example in predictions:
        source, target, prediction = (
            _shorten(tokenizer.show(ids).replace("\n", "⏎")) for ids in example
        )
        colour = "green" if example.prediction == example.target else "red"
        table.add_row(Text(source), Text(target), Text(prediction, style=colour))
    return table


def _shorten(text: str, longest: int = 60) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
