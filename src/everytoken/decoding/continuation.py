"""What comes next: the logits after each prompt, and after each token that is added to it.

A `Transformer` reads the prompts in one forward, then goes on token by token with a key/value
cache. Any other model that keeps the contract of `TokenModule` reads everything anew for each
token, which is slower and gives the same.

Shapes: B prompts; S sequences that are still continued, K hypotheses of each, R = S x K rows,
sequence by sequence; V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from everytoken.batch import IGNORE_INDEX, Batch
from everytoken.errors import UserError
from everytoken.model.transformer import Transformer
from everytoken.model.unpad import repad, unpad

NO_DECODER = (
    "an encoder sees both sides of a token and can't say which comes next: what it answers are the "
    "positions that its objective's prompt() gives a label"
)


class Continuation(ABC):
    """A batch of prompts that grow.

    Args:
        head: hidden states (R, D) → logits (R, V).
        end_ids: all tokens after which the model's sequences are over, as an instruct model has
            several; none for the one that generation is given.
    """

    def __init__(self, head: nn.Module, end_ids: Sequence[int] = ()) -> None:
        self.head = head
        self.end_ids = tuple(end_ids)

    def ends(self, end_id: int) -> list[int]:
        """All tokens after which a sequence is over, see `all_ends`."""
        return all_ends(self.end_ids, end_id)

    def start(self) -> Tensor:
        """Logits (B, V) after the prompts; call it once, first."""
        return self._logits(self._start())

    def step(self, ids: Tensor) -> Tensor:
        """Add a token (R,) to each row; logits (R, V) after it."""
        return self._logits(self._step(ids))

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Keep some rows, in a new order; one may come several times.

        Args:
            rows: (S', K') the rows to keep, each line from one sequence as it was.
        """

    @abstractmethod
    def _start(self) -> Tensor:
        """Hidden states (B, D) of the prompts' last tokens."""

    @abstractmethod
    def _step(self, ids: Tensor) -> Tensor:
        """Hidden states (R, D) of the new tokens (R,)."""

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = self.head(hidden)
        check_finite(logits)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def all_ends(end_ids: Sequence[int], end_id: int) -> list[int]:
    """The tokens after which a sequence is over: the model's, if the one in use is one of them.

    If it is none of them, the model has been taught to end in another way.
    """
    return list(end_ids) if end_id in end_ids else [end_id]


def check_finite(logits: Tensor) -> None:
    """Refuse logits (R, V) that say nothing.

    Raises:
        UserError: one is NaN or infinite, or all are minus infinity.
    """
    if not bool(logits.amax(-1).isfinite().all()):  # the largest is NaN if any is
        raise UserError(
            "the model's logits are not finite (NaN or infinite), so no token can be chosen: "
            "its training has failed, or the precision is too small for it"
        )


class Cached(Continuation):
    """Of a Transformer."""

    def __init__(self, model: Transformer, head: nn.Module, prompts: Batch) -> None:
        super().__init__(head, model.end_ids)
        if model.decoder is None:
            raise UserError(NO_DECODER)
        self.decoder = model.decoder
        self.embedding = model.embedding
        self.memory = model.encode(prompts)
        self.ids, borders = _real(prompts)
        self.borders = replace(borders, prefix_lengths=prompts.prefix_lengths)
        self.positions = prompts.lengths
        self.hypotheses = 1

    def _start(self) -> Tensor:
        hidden, self.caches = self.decoder.prefill(
            self.embedding(self.ids), self.borders, self.memory
        )
        return hidden[self.borders.cu_seqlens[1:].long() - 1]

    def _step(self, ids: Tensor) -> Tensor:
        hidden = self.decoder.step(self.embedding(ids), self.positions, self.caches)
        self.positions = self.positions + 1
        return hidden

    def select(self, rows: Tensor) -> None:
        """See `Continuation`."""
        sequences = rows[:, 0] // self.hypotheses
        before = len(self.positions) // self.hypotheses
        self.positions = self.positions[rows.flatten()]
        self.hypotheses = rows.shape[1]
        for cache in self.caches:
            cache.own.select(rows.flatten())
            if cache.cross is not None and len(sequences) < before:  # or they are the same
                cache.cross.select(sequences)


class Recomputed(Continuation):
    """Of any model: it reads all that was generated so far, again and again."""

    def __init__(self, model: nn.Module, head: nn.Module, prompts: Batch) -> None:
        super().__init__(head, getattr(model, "end_ids", ()))
        if getattr(model, "shape", None) == "encoder":
            raise UserError(NO_DECODER)
        self.model = model
        self.prompts = prompts
        self.ids = repad(*_real(prompts), "left")  # (R, T): new tokens come at the right
        self.lengths = prompts.lengths
        self.source_ids = prompts.source_ids
        self.source_lengths = prompts.source_lengths
        self.prefix_lengths = prompts.prefix_lengths

    def _start(self) -> Tensor:
        count = int(self.lengths.sum())
        ids, borders = unpad(self.ids, self.lengths, count, "left")
        side = self.prompts.padding_side
        input_ids = repad(ids, borders, side)
        last = torch.full_like(ids, IGNORE_INDEX)
        last[borders.cu_seqlens[1:].long() - 1] = 0
        labels = repad(last - IGNORE_INDEX, borders, side) + IGNORE_INDEX  # it pads with zeros
        return self.model(
            Batch.make(
                input_ids=input_ids,
                labels=labels,
                lengths=self.lengths,
                source_ids=self.source_ids,
                source_lengths=self.source_lengths,
                padding_side=side,
                prefix_lengths=self.prefix_lengths,
            )
        )

    def _step(self, ids: Tensor) -> Tensor:
        self.ids = torch.cat((self.ids, ids[:, None]), dim=1)
        self.lengths = self.lengths + 1
        return self._start()

    def select(self, rows: Tensor) -> None:
        """See `Continuation`."""
        flat = rows.flatten()
        self.ids, self.lengths = self.ids[flat], self.lengths[flat]
        if self.prefix_lengths is not None:
            self.prefix_lengths = self.prefix_lengths[flat]
        if self.source_ids is not None and self.source_lengths is not None:
            self.source_ids = self.source_ids[flat]
            self.source_lengths = self.source_lengths[flat]


def _real(prompts: Batch):
    return unpad(prompts.input_ids, prompts.lengths, prompts.input_count, prompts.padding_side)
