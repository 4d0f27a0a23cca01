"""Generation by free running: each token is chosen from what was generated before it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from everytoken.batch import IGNORE_INDEX, Batch, select
from everytoken.decoding.continuation import Cached, Continuation, Recomputed
from everytoken.decoding.sampling import OneByOne
from everytoken.model.transformer import Transformer
from everytoken.tokenizer.tokenizer import Tokenizer

ROWS = 320
"""Most sequences, hypotheses of beam search included, that are continued together: logits of all
would take much memory, and from here on more at a time aren't faster."""


class Prediction(NamedTuple):
    """Token ids of one example of the last evaluation, to be shown."""

    source: list[int]
    target: list[int]
    prediction: list[int]
    is_right: bool | None = None
    """If the prediction is the target, as texts where the corpus has one; None for by its ids."""
    places: list[int] | None = None
    """Where in what the model reads each target is predicted, if each prediction stands at its
    target's place. Neither what is written freely does, nor several classes of a text."""
    goes_on: bool = False
    """If what is predicted goes on with the source, whose end then says most."""


def reads_its_target(example: Prediction, tokenizer: Tokenizer) -> bool:
    """True of a language model's: its target is what it reads, one token on. No class is."""
    read, target = example.source[1:], example.target
    return bool(read) and not tokenizer.labels and read[: len(target)] == target[: len(read)]


def spread(predictions: Sequence[Prediction], count: int) -> list[Prediction]:
    """At most `count` of many, evenly over all: they are sorted by length, and short ones count."""
    count = min(count, len(predictions))
    return [predictions[i * len(predictions) // count] for i in range(count)]


class Decoding(Protocol):
    """How tokens are chosen: `Greedy`, `Sampling`, `BeamSearch`."""

    @property
    def hypotheses(self) -> int:
        """Rows that a sequence takes."""
        ...

    def decode(
        self, continuation: Continuation, keys: list[int], *, end_id: int, max_new_tokens: int
    ) -> list[list[int]]:
        """Continue each prompt.

        Args:
            continuation: the prompts, not started.
            keys: names of the prompts, from 0: what randomness depends on.
            end_id: the token after which a sequence is over; all are `continuation.ends(end_id)`.
            max_new_tokens: at most this many tokens are generated per sequence, at least 1.

        Returns:
            The new tokens of each, without the end.
        """
        ...


@torch.no_grad()
def generate(
    model: nn.Module,
    head: nn.Module,
    prompts: Batch,
    decoding: Decoding,
    *,
    end_id: int,
    max_new_tokens: int,
) -> list[list[int]]:
    """Continue each prompt.

    Args:
        model: keeps the contract of `TokenModule`, and predicts the next token. If `model.end_ids`
            has several tokens, end_id among them, a sequence is over after any of them.
        head: the model's head.
        prompts: `input_ids` hold one prompt a row, at least one token each; labels are not read.
            Randomness in a row is keyed by its entry in `indices`, or its place in the batch.
        decoding: how tokens are chosen.
        end_id: the token after which a sequence is over.
        max_new_tokens: at most this many tokens are generated per sequence.

    Returns:
        The new tokens of each row, without the end.

    Raises:
        ValueError: an empty prompt.
        UserError: logits that are not finite; an encoder.
    """
    _check_not_empty(prompts)
    count = len(prompts.input_ids)
    keys = list(range(count)) if prompts.indices is None else prompts.indices.tolist()
    if max_new_tokens == 0:
        return [[] for _ in range(count)]
    together = max(1, ROWS // decoding.hypotheses)
    answers: list[list[int]] = []
    for first in range(0, count, together):
        part = slice(first, first + together)
        answers += decoding.decode(
            _continuation(model, head, _rows(prompts, part)),
            keys[part],
            end_id=end_id,
            max_new_tokens=max_new_tokens,
        )
    return answers


@torch.no_grad()
def stream(
    model: nn.Module,
    head: nn.Module,
    prompt: Batch,
    decoding: OneByOne,
    *,
    end_id: int,
    max_new_tokens: int,
) -> Iterator[int]:
    """Continue one prompt, token by token; see `generate`."""
    _check_not_empty(prompt)
    continuation = _continuation(model, head, prompt)
    keys = [0] if prompt.indices is None else prompt.indices.tolist()
    for step in decoding.stream(continuation, keys, end_id=end_id, max_new_tokens=max_new_tokens):
        yield from step.values()


def _continuation(model: nn.Module, head: nn.Module, prompts: Batch) -> Continuation:
    if isinstance(model, Transformer):
        return Cached(model, head, prompts)
    return Recomputed(model, head, prompts)


def beginnings(batch: Batch) -> Batch:
    """The batch with each row cut off after its prompt: where generation starts.

    Where rows have a prefix, that is all of it.
    A prompt is as long as `batch.references` says; if nobody has said it, it ends where the row's
    first target is predicted.
    """
    _check_not_empty(batch)
    rows = select(batch.input_ids, batch.is_real)
    if batch.references is None:
        targets = select(batch.is_target, batch.is_real)
        counts = [1 + (row.index(True) if any(row) else 0) for row in targets]
    else:
        counts = batch.references.prompts
    prompts = [torch.tensor(row[:count]) for row, count in zip(rows, counts, strict=True)]
    ids = pad_sequence(prompts, batch_first=True, padding_side=batch.padding_side)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    device = batch.input_ids.device
    ids, lengths = ids.to(device), lengths.to(device)
    prefixes = None if batch.prefix_lengths is None else lengths
    cut = replace(batch, input_ids=ids, lengths=lengths, prefix_lengths=prefixes)
    return _without_labels(cut)


def _rows(batch: Batch, rows: slice) -> Batch:
    parts = {name: v[rows] for name, v in vars(batch).items() if isinstance(v, Tensor)}
    return _without_labels(replace(batch, **parts))


def _without_labels(batch: Batch) -> Batch:
    return Batch.make(
        input_ids=batch.input_ids,
        labels=torch.full_like(batch.input_ids, IGNORE_INDEX),
        lengths=batch.lengths,
        source_ids=batch.source_ids,
        source_lengths=batch.source_lengths,
        padding_side=batch.padding_side,
        indices=batch.indices,
        prefix_lengths=batch.prefix_lengths,
    )


def _check_not_empty(batch: Batch) -> None:
    if bool((batch.lengths == 0).any()):
        row = int((batch.lengths == 0).nonzero()[0])
        raise ValueError(f"row {row} is empty: generation needs at least one token to start from")
