"""A model of one's own: two LSTMs (Sutskever et al. 2014), one that reads and one that writes."""

from typing import Literal

import torch
from torch import Tensor, nn

from everytoken import Batch


class LSTM(nn.Module):
    """Predicts the next token; reads the source first if the task has one.

    Shapes: B sequences, T positions, S source positions, M target tokens, D width, V vocabulary.

    Args:
        vocabulary: V, how many tokens the tokenizer knows; given by the engine, not by the YAML.
        shape: "decoder" or "encoder_decoder", as the task wants it.
        width: D.

    Raises:
        ValueError: a task in which a position may see later ones.
    """

    def __init__(
        self, vocabulary: int, shape: Literal["encoder", "decoder", "encoder_decoder"], width: int
    ) -> None:
        super().__init__()
        if shape == "encoder":
            raise ValueError("an LSTM sees nothing later: use task=causal_lm or task=seq2seq")
        self.embedding = nn.Embedding(vocabulary, width)
        self.reader = nn.LSTM(width, width, batch_first=True) if shape != "decoder" else None
        self.writer = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, batch: Batch) -> Tensor:
        """Hidden states (M, D) of the target tokens, in the order of `batch.targets`.

        Raises:
            ValueError: padding at the left.
        """
        if batch.padding_side != "right":
            raise ValueError("an LSTM would read the padding first: set data.padding_side=right")
        hidden, _ = self.writer(self.embedding(batch.input_ids), self._read(batch))  # (B, T, D)
        return hidden[batch.is_target]

    def _read(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Where the writer starts: the source, as it was read up to its last real token."""
        if self.reader is None or batch.source_ids is None or batch.source_lengths is None:
            return None
        states, _ = self.reader(self.embedding(batch.source_ids))  # (B, S, D)
        rows = torch.arange(len(states), device=states.device)
        last = states[rows, batch.source_lengths - 1][None]  # (1, B, D): one layer
        return last, torch.zeros_like(last)
