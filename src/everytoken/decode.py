"""Generation by free running: each token is chosen from what was generated before it.

A `Transformer` decodes with a key/value cache; any other model that keeps the contract of
`TokenModule` is asked for its last position again and again, which is slower and gives the same.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from everytoken.batch import IGNORE_INDEX, Batch
from everytoken.model import Transformer
from everytoken.unpad import repad, unpad


class NextHidden(Protocol):
    """Takes the newest token (B,) of each sequence, gives its hidden state (B, D)."""

    def __call__(self, ids: Tensor) -> Tensor:
        """(B,) → (B, D)."""
        ...


class Cached:
    """Runs the decoder of a Transformer one position at a time."""

    def __init__(self, model: Transformer, prompts: Batch) -> None:
        assert model.decoder is not None
        self.model = model
        self.position = 0
        memory = model.encode(prompts)
        rows = len(prompts.input_ids)
        self.caches = model.decoder.start(rows, memory)

    def __call__(self, ids: Tensor) -> Tensor:
        """(B,) → (B, D)."""
        assert self.model.decoder is not None
        hidden = self.model.decoder.step(self.model.embedding(ids), self.position, self.caches)
        self.position += 1
        return hidden


class Recomputed:
    """Asks a model for the hidden state of the last position of all that was generated so far."""

    def __init__(self, model: nn.Module, prompts: Batch) -> None:
        self.model = model
        self.prompts = prompts
        self.seen: list[Tensor] = []

    def __call__(self, ids: Tensor) -> Tensor:
        """(B,) → (B, D)."""
        self.seen.append(ids)
        input_ids = torch.stack(self.seen, dim=1)  # (B, T)
        labels = torch.full_like(input_ids, IGNORE_INDEX)
        labels[:, -1] = 0
        return self.model(
            Batch.make(
                input_ids=input_ids,
                labels=labels,
                lengths=torch.full_like(ids, len(self.seen)),
                source_ids=self.prompts.source_ids,
                source_lengths=self.prompts.source_lengths,
                padding_side=self.prompts.padding_side,
            )
        )


@torch.no_grad()
def generate(
    model: nn.Module, head: nn.Module, prompts: Batch, *, end_id: int, max_new_tokens: int
) -> list[list[int]]:
    """Continue each prompt with its most likely tokens (greedy).

    Args:
        model: keeps the contract of `TokenModule`, and predicts the next token.
        head: the model's head.
        prompts: `input_ids` hold one prompt a row, at least one token each; labels are not read.
        end_id: the token after which a sequence is over.
        max_new_tokens: at most this many tokens are generated per sequence.

    Returns:
        The new tokens of each row, without end_id.

    Raises:
        ValueError: an empty prompt.
    """
    _check_not_empty(prompts)
    advance: NextHidden
    if isinstance(model, Transformer):
        advance = Cached(model, prompts)
    else:
        advance = Recomputed(model, prompts)
    ids, borders = unpad(
        prompts.input_ids, prompts.lengths, prompts.input_count, prompts.padding_side
    )
    prompt = repad(ids, borders)  # (B, T), padded right
    lengths = prompts.lengths
    current = prompt[:, 0]
    finished = torch.zeros_like(lengths, dtype=torch.bool)
    columns: list[Tensor] = []
    for position in range(1, prompt.shape[1] + max_new_tokens):
        best = head(advance(current)).argmax(-1)  # (B,)
        is_prompt = position < lengths
        given = prompt[:, min(position, prompt.shape[1] - 1)]
        current = torch.where(is_prompt, given, best)
        over = finished | (position >= lengths + max_new_tokens)
        columns.append(torch.where(is_prompt | over, IGNORE_INDEX, current))
        finished = over | (~is_prompt & (current == end_id))
        if finished.all():
            break
    rows = torch.stack(columns, dim=1).tolist() if columns else [[] for _ in lengths]
    return [[t for t in row if t not in (IGNORE_INDEX, end_id)] for row in rows]


def first_tokens(batch: Batch) -> Batch:
    """The batch with all but the first token of each row cut off: where generation starts."""
    _check_not_empty(batch)
    ids, borders = unpad(batch.input_ids, batch.lengths, batch.input_count, batch.padding_side)
    first = ids[borders.cu_seqlens[:-1].long()][:, None]  # (B, 1)
    return Batch.make(
        input_ids=first,
        labels=torch.full_like(first, IGNORE_INDEX),
        lengths=torch.ones_like(batch.lengths),
        source_ids=batch.source_ids,
        source_lengths=batch.source_lengths,
        padding_side=batch.padding_side,
    )


def _check_not_empty(batch: Batch) -> None:
    if bool((batch.lengths == 0).any()):
        row = int((batch.lengths == 0).nonzero()[0])
        raise ValueError(f"row {row} is empty: generation needs at least one token to start from")
