"""Output layer and cross-entropy in one, for a vocabulary of any size.

Logits are made for some tokens at a time, and the gradient with them: a row's is its softmax minus
its target, known as soon as the row is. So logits never exist all at once, no second pass is made,
and what stays for backward is as large as the hidden states and the weight. (Gradients in forward:
Hsu et al. 2024, "Liger Kernel"; chunks of tokens: Wijmans et al. 2024, "Cut Your Losses".)

Shapes: M target tokens, D width, V vocabulary.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from everytoken.model.precision import at_least_float32, compute_dtype, without_autocast

CHUNK_LOGITS = 2**24
"""Logits of a matrix product, about: more would only cost memory."""
CHUNK_TOKENS = 512
"""Tokens of a matrix product, at least: fewer would run slower."""
CACHED_LOGITS = 2**20
"""Logits that stay in a CPU's cache while softmax and gradient are made of them."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    label_smoothing: float,
    z_loss: float,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of `hidden @ weight.T + bias`, added up, and how often the target is likeliest.

    Matrix products are in the dtype of autocast, the rest is in float32 (float64 for float64).

    Args:
        hidden: (M, D) one row per target token; M may be 0.
        weight: (V, D)
        bias: (V,)
        targets: (M,) int64, none of them ignored.
        label_smoothing: share of the mass spread evenly over the vocabulary.
        z_loss: weight of log(Z)^2, Z being the softmax's denominator, which keeps logits from
            drifting (Chowdhery et al. 2022, "PaLM").

    Returns:
        () float64, which carries the gradient, and () int64.
    """
    loss, correct = _LinearCrossEntropy.apply(
        hidden, weight, bias, targets, label_smoothing, z_loss, torch.is_grad_enabled()
    )
    return loss, correct


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, label_smoothing, z_loss, grad_enabled):
        wanted = [grad_enabled and needed for needed in ctx.needs_input_grad[:3]]
        dtype = compute_dtype(hidden)
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        loss = hidden.new_zeros((), dtype=torch.float64)
        correct = torch.zeros_like(loss, dtype=torch.int64)
        d_hidden, d_weight, d_bias = (
            torch.zeros_like(x, dtype=exact) if want else None
            for x, want in zip((hidden, weight, bias), wanted, strict=True)
        )
        with without_autocast(hidden):
            factor = weight.to(dtype)
            offset = None if bias is None else bias.to(dtype)
            size = max(CHUNK_TOKENS, CHUNK_LOGITS // len(weight))
            for start in range(0, len(hidden), size):
                chunk = slice(start, start + size)
                x = hidden[chunk].to(dtype)
                logits = F.linear(x, factor, offset)  # (chunk, V), and soon their gradient
                parts = _parts(logits, targets[chunk])
                for part in parts:
                    losses, hits = _differentiate(*part, label_smoothing, z_loss, any(wanted))
                    loss += losses
                    correct += hits
                if d_hidden is not None:
                    d_hidden[chunk] = logits @ factor
                if d_weight is not None:
                    if dtype == exact:
                        d_weight.addmm_(logits.mT, x)
                    else:
                        d_weight += logits.mT @ x
                if d_bias is not None:
                    d_bias += logits.sum(0, dtype=exact)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.dtypes = hidden.dtype, weight.dtype
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    @once_differentiable
    def backward(ctx, d_loss, _):
        hidden_dtype, weight_dtype = ctx.dtypes
        gradients = zip(ctx.saved_tensors, (hidden_dtype, weight_dtype, weight_dtype), strict=True)
        scaled = [None if g is None else (g * d_loss.to(g.dtype)).to(d) for g, d in gradients]
        return *scaled, None, None, None, None


def _parts(logits: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Rows to work on at a time: on a CPU as many as its cache holds, else all."""
    rows = max(1, CACHED_LOGITS // logits.shape[1]) if _is_on_cpu(logits) else len(logits)
    return list(zip(logits.split(rows), targets.split(rows), strict=True))


def _differentiate(
    logits: Tensor, targets: Tensor, label_smoothing: float, z_loss: float, replace: bool
) -> tuple[Tensor, Tensor]:
    """Loss () and hits () of logits (m, V); if `replace`, these become their gradient."""
    scores = at_least_float32(logits)
    targets = targets[:, None]
    own, hits = _own_and_hits(scores, targets)
    highest = scores.amax(-1, keepdim=True)
    probabilities = torch.softmax(scores, -1)
    # Of the likeliest token, since its probability can't vanish.
    log_z = highest - probabilities.amax(-1, keepdim=True).log()
    losses = log_z - (1 - label_smoothing) * own
    if label_smoothing:
        losses -= label_smoothing * scores.mean(-1, keepdim=True)
    if z_loss:
        losses += z_loss * log_z**2
    if replace:
        if z_loss:
            probabilities *= 1 + 2 * z_loss * log_z
        if label_smoothing:
            probabilities -= label_smoothing / logits.shape[1]
        probabilities.scatter_add_(1, targets, torch.full_like(log_z, label_smoothing - 1))
        logits.copy_(probabilities)
    return losses.sum(dtype=torch.float64), hits


def _own_and_hits(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The targets' scores (m, 1), and how many of them `argmax` finds, the first of equals.

    On a CPU `argmax` takes longer than softmax, and is left to rows with equals. Which these are a
    GPU would have to be waited for.
    """
    own = scores.gather(1, targets)
    if not _is_on_cpu(scores):
        return own, (scores.argmax(-1, keepdim=True) == targets).sum()
    others = scores.scatter_(1, targets, float("-inf")).amax(-1, keepdim=True)
    scores.scatter_(1, targets, own)
    equal = (own == others).squeeze(1)
    first = scores[equal].argmax(-1, keepdim=True) == targets[equal]
    return own, (own > others).sum() + first.sum()


def _is_on_cpu(logits: Tensor) -> bool:
    return logits.device.type == "cpu"
