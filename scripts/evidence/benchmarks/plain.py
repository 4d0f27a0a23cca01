"""What tutorials write: `nn.Transformer` on batches that are padded to the longest.

Shapes: B sequences, S source positions, T target positions, D width, V vocabulary.
"""

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from benchmarks.corpora import SPECIAL, Corpus
from benchmarks.gate import Gate
from everytoken.training.schedule import warmup_cosine

LOG_EVERY = 10
"""Optimizer steps between logged losses, for all contestants."""
Pair = tuple[Tensor, Tensor]


class Tutorial(nn.Module):
    """Embedding, sinusoidal positions, `nn.Transformer`, output layer.

    Args:
        vocabulary: V.
        layers: of each stack.
        width: D.
        heads: of attention.
        ffn_width: hidden width of the feed-forward layers.
        dropout: probability.
    """

    def __init__(
        self, vocabulary: int, layers: int, width: int, heads: int, ffn_width: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.dropout = nn.Dropout(dropout)
        self.transformer = nn.Transformer(
            width, heads, layers, layers, ffn_width, dropout, batch_first=True
        )
        self.head = nn.Linear(width, vocabulary)
        for weight in self.parameters():
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)
        self.head.weight = self.embedding.weight
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(1024, width))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """(B, S) and (B, T) ids → (B, T, V) logits."""
        no_source, no_target = source == SPECIAL.pad, target == SPECIAL.pad
        width = target.shape[1]
        future = torch.ones(width, width, dtype=torch.bool, device=target.device).triu(1)
        hidden = self.transformer(
            self._embed(source),
            self._embed(target),
            tgt_mask=future,
            src_key_padding_mask=no_source,
            tgt_key_padding_mask=no_target,
            memory_key_padding_mask=no_source,
            tgt_is_causal=True,
        )
        return self.head(hidden)

    def _embed(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) * math.sqrt(self.embedding.embedding_dim)
        return self.dropout(x + self.positions[: ids.shape[1]])


def sinusoids(longest: int, width: int) -> Tensor:
    """(longest, width) of Vaswani et al. 2017, section 3.5."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(longest)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class ByLength:
    """Batches of like length, in an order that has batches of all lengths in a few steps.

    Args:
        lengths: (n,) what to sort by.
        size: examples of a batch.
    """

    def __init__(self, lengths: np.ndarray, size: int) -> None:
        order = np.argsort(lengths, kind="stable")
        batches = [part.tolist() for part in np.split(order, range(size, len(order), size))]
        self.batches = [batches[i] for i in spread(len(batches))]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches


def spread(count: int) -> list[int]:
    """0 to count - 1, each once, so that any few in a row are spread over the whole range.

    Sorted batches in random order would give one round long sequences and another short ones.
    """
    golden = (math.sqrt(5) - 1) / 2
    return np.argsort(np.argsort(np.arange(1, count + 1) * golden % 1)).tolist()


def collate_pairs(pairs: list[Pair]) -> Pair:
    """(B, S) and (B, T + 1) ids, padded on the right."""
    source, target = (
        pad_sequence([*side], batch_first=True, padding_value=SPECIAL.pad)
        for side in zip(*pairs, strict=True)
    )
    return source, target


def seq2seq(
    gate: Gate,
    corpus: str,
    model: dict[str, Any],
    batch_size: int,
    by_length: bool,
    bf16: bool,
    lr: float,
    label_smoothing: float,
    total_steps: int,
) -> None:
    """A contestant."""
    torch.manual_seed(1)
    data = Corpus.load(corpus)
    pairs = [
        (
            torch.tensor([*record["source"], SPECIAL.eos]),
            torch.tensor([SPECIAL.bos, *record["target"], SPECIAL.eos]),
        )
        for record in data.train
    ]
    if by_length:
        # By the target, and among equal ones by the source.
        keys = 10_000 * data.lengths("target") + data.lengths("source")
        order: dict[str, Any] = {"batch_sampler": ByLength(keys, batch_size)}
    else:
        order = {"batch_size": batch_size, "shuffle": True}
    loader = DataLoader(pairs, collate_fn=collate_pairs, **order)  # pyright: ignore[reportArgumentType]
    net = Tutorial(data.vocabulary, **model).train()
    criterion = nn.CrossEntropyLoss(ignore_index=SPECIAL.pad, label_smoothing=label_smoothing)

    def loss_of(batch: Pair) -> Tensor:
        source, target = batch
        logits = net(source, target[:, :-1])
        return criterion(logits.flatten(0, 1), target[:, 1:].flatten())

    def counts(batch: Pair) -> tuple[int, int]:
        source, target = batch
        inputs = len(target) * (target.shape[1] - 1)
        # Without the begin each target has as many tokens as decoder inputs.
        real = int((source != SPECIAL.pad).sum() + (target[:, 1:] != SPECIAL.pad).sum())
        return real, source.numel() + inputs

    loop(gate, net, loader, loss_of, counts, bf16=bf16, lr=lr, total_steps=total_steps)


def loop(
    gate: Gate,
    net: nn.Module,
    loader: DataLoader,
    loss_of: Callable[[Any], Tensor],
    counts: Callable[[Any], tuple[int, int]],
    *,
    bf16: bool,
    lr: float,
    total_steps: int,
    accumulate: int = 1,
    device: str = "cpu",
) -> None:
    """The training loop of all plain contestants, as tutorials write it.

    Args:
        gate: is waited at.
        net: what learns.
        loader: gives micro-batches, epoch after epoch.
        loss_of: the mean loss of a micro-batch.
        counts: its real tokens and positions.
        bf16: True for autocast.
        lr: peak learning rate.
        total_steps: optimizer steps of the schedule.
        accumulate: micro-batches of an optimizer step.
        device: where `net` is.
    """
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, fused=True)
    scheduler = warmup_cosine(optimizer, total_steps, warmup_fraction=0.1, final_fraction=0.02)
    gate.ready(sum(p.numel() for p in net.parameters()))
    steps, real, positions, loss = 0, 0, 0, torch.zeros(())
    while True:
        for number, batch in enumerate(loader):
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                loss = loss_of(batch)
            (loss / accumulate).backward()
            found = counts(batch)
            real, positions = real + found[0], positions + found[1]
            if (number + 1) % accumulate:
                continue
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            steps += 1
            if steps % LOG_EVERY == 0:
                print(f"step {steps} loss {loss.item():.4f}", file=sys.stderr)
            gate.step(real, positions, lambda loss=loss: float(loss.detach()))
            real, positions = 0, 0
