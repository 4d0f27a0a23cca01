"""A GPT as many write it (after nanoGPT): causal blocks on batches padded to the longest, or on
rows of one length that documents were concatenated into, whatever that has them see of each other.

Shapes: B sequences, T positions, D width, H heads, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from benchmarks.corpora import SPECIAL, Corpus
from benchmarks.gate import Gate
from benchmarks.plain import loop
from everytoken.batch import IGNORE_INDEX

LONGEST = 1024
"""Learned positions."""


class Block(nn.Module):
    """Pre-norm attention and a feed-forward layer with GELU: (B, T, D) → (B, T, D)."""

    def __init__(self, width: int, heads: int, ffn_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, ffn_width, bias=False)
        self.down = nn.Linear(ffn_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Padding stands on the right, where a causal token doesn't look: no mask."""
        parts = self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, D / H)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.ffn_norm(x))))


class GPT(nn.Module):
    """Embedding, learned positions, blocks, tied output layer."""

    def __init__(
        self, vocabulary: int, layers: int, width: int, heads: int, ffn_width: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(LONGEST, width)
        self.blocks = nn.ModuleList(Block(width, heads, ffn_width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for weight in self.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.02)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """(B, T) ids and labels → () mean loss."""
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX)


def causal_lm(
    gate: Gate,
    corpus: str,
    model: dict[str, Any],
    batch_size: int,
    accumulate: int,
    bf16: bool,
    lr: float,
    total_steps: int,
    device: str,
    compiled: bool,
    row: int | None = None,
) -> None:
    """A contestant; `batch_size` is a micro-batch's, in rows of so many tokens if there are."""
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    data = Corpus.load(corpus)
    texts = [torch.tensor([SPECIAL.bos, *r["text"], SPECIAL.eos]) for r in data.train]

    def collate(some: list[Tensor]) -> tuple[Tensor, Tensor, int]:
        inputs = pad_sequence([t[:-1] for t in some], True, SPECIAL.pad)
        labels = pad_sequence([t[1:] for t in some], True, IGNORE_INDEX)
        return inputs, labels, sum(len(t) - 1 for t in some)

    if row is not None:
        stream = torch.cat(texts)
        texts = list(stream[: (len(stream) - 1) // row * row + 1].unfold(0, row + 1, row))
    dataset: Any = texts
    loader = DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        collate_fn=collate,
        drop_last=True,
        pin_memory=device == "cuda",
    )
    net = GPT(data.vocabulary, **model).to(device)
    run = torch.compile(net, dynamic=True) if compiled else net

    def loss_of(batch: tuple[Tensor, Tensor, int]) -> Tensor:
        inputs, labels = (side.to(device, non_blocking=True) for side in batch[:2])
        return run(inputs, labels)

    def counts(batch: tuple[Tensor, Tensor, int]) -> tuple[int, int]:
        return batch[2], batch[0].numel()

    settings: dict[str, Any] = {"bf16": bf16, "lr": lr, "total_steps": total_steps}
    loop(gate, net, loader, loss_of, counts, accumulate=accumulate, device=device, **settings)
