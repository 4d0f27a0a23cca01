"""What each logit depends on, measured by gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from everytoken.audit.subject import Subject, pad_anew
from everytoken.batch import IGNORE_INDEX, Batch
from everytoken.errors import UserError

NO_INFLUENCE = 1e-6
"""Part of the largest influence that counts as none: a convolution by FFT leaves 1e-8."""

LENGTHS = (7, 4)
"""Of two sequences whose tokens are all different, so that a gradient says where it came from."""


class Influence:
    """How strongly each target's logits depend on each token of a micro-batch, by gradient.

    All tokens have different ids; the gradient with respect to the embeddings that an
    `nn.Embedding` gives for an id is the influence of that id's one place, here as part of the
    largest on the same target.

    Args:
        subject: whose model is looked at.
        has_prefix: True if the first `prefixes` tokens of each sequence may see each other.
    """

    def __init__(self, subject: Subject, has_prefix: bool = False) -> None:
        has_source = subject.batch.source_ids is not None
        vocabulary = len(subject.tokenizer)
        lengths = [min(n, (vocabulary - 1) // (4 if has_source else 2)) for n in LENGTHS]
        if min(lengths) < 2:
            raise UserError(f"a vocabulary of {vocabulary} is too small to tell tokens apart")
        ids = iter(range(vocabulary - 1, -1, -1))  # from the end: special tokens come first
        self.inputs = [[next(ids) for _ in range(n)] for n in lengths]
        self.sources = [[next(ids) for _ in range(n)] for n in lengths] if has_source else []
        self.padding = next(ids)
        self.prefixes = [1 + n // 2 if has_prefix else 0 for n in lengths]
        padded = [row + [self.padding] * (max(lengths) - len(row)) for row in self.inputs]
        sources = [row + [self.padding] * (max(lengths) - len(row)) for row in self.sources]
        batch = Batch.make(
            input_ids=torch.tensor(padded),
            labels=torch.tensor([[0] * n + [IGNORE_INDEX] * (max(lengths) - n) for n in lengths]),
            lengths=torch.tensor(lengths),
            source_ids=torch.tensor(sources) if has_source else None,
            source_lengths=torch.tensor(lengths) if has_source else None,
            prefix_lengths=torch.tensor(self.prefixes) if has_prefix else None,
        )
        side = subject.batch.padding_side
        batch = pad_anew(batch, side=side, garbage=torch.tensor([self.padding]))
        self.places = [(row, position) for row, n in enumerate(lengths) for position in range(n)]
        with _embeddings(subject.model) as tables:
            logits = subject.logits(batch)
        # A table of positions is looked up with fewer different ids.
        whole = [set(chain(*rows)) for rows in (self.inputs, self.sources) if rows]
        looked_up = [t for t in tables if any(w <= set(t[0].flatten().tolist()) for w in whole)]
        if not looked_up:
            raise UserError("the model looks its ids up in no nn.Embedding, so no gradient tells")
        weights = torch.randn(logits.shape, dtype=logits.dtype, generator=torch.manual_seed(0))
        outputs = [output for _, output in looked_up]
        self.table = torch.zeros(len(self.places), vocabulary, dtype=torch.float64)
        for target, scores in enumerate(logits * weights):
            found = torch.autograd.grad(
                scores.sum(), outputs, retain_graph=True, materialize_grads=True
            )
            for (looked, _), gradient in zip(looked_up, found, strict=True):
                strength = gradient.double().abs().flatten(looked.ndim).sum(-1)
                known = (looked >= 0) & (looked < vocabulary)
                self.table[target].index_add_(0, looked[known], strength[known])
        self.table /= self.table.amax(1, keepdim=True).clamp(min=1e-300)

    def later(self, target: int) -> list[int]:
        """Tokens of its own sequence that a target may not see if the task is causal."""
        row, position = self.places[target]
        prefix = self.prefixes[row]
        return self.inputs[row][prefix if position < prefix else position + 1 :]

    def on(self, target: int, token: int) -> Tensor:
        """Influence of a token id on a target, ()."""
        return self.table[target, token]


def influences(subject: Subject) -> Iterator[Influence]:
    """Of sequences, and of such with prefixes if the task has some."""
    yield Influence(subject)
    if subject.batch.prefix_lengths is not None:
        yield Influence(subject, has_prefix=True)


@contextmanager
def _embeddings(model: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collects ids and embeddings of each look-up; gradients end at these embeddings."""
    looked_up: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, ids: tuple[Tensor, ...], output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        looked_up.append((ids[0], leaf))
        return leaf

    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    hooks = [table.register_forward_hook(keep) for table in tables]
    try:
        yield looked_up
    finally:
        for hook in hooks:
            hook.remove()
