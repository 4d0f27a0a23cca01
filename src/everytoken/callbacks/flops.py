"""How much of what the machine can compute at most goes into the model: its FLOPs, and the peak.

Counted are the matrix products that the task needs, of real tokens only: linear layers on the
tokens that they are applied to, the output layer on target tokens, and, for our Transformer,
attention's scores and mixtures for the pairs of tokens that may see each other. Padding, fillers,
masked halves and recomputation are nobody's merit. Two FLOPs to a multiplication with addition;
backward does twice what forward does.
"""

import time

import torch
from torch import Tensor, nn

from everytoken.batch import Batch
from everytoken.model.block import Block
from everytoken.model.transformer import Stack, Transformer

SHAPES = {
    "cpu": ((1024, 1024, 1024), (2048, 512, 1024)),
    "cuda": ((8192, 8192, 8192), (16384, 4096, 4096)),
}
"""(M, K, N) of the products whose fastest is called the peak."""


def batch_flops(model: nn.Module, batch: Batch) -> Tensor:
    """FLOPs of forward and backward of a model over the real tokens of a micro-batch.

    Of a model that isn't our `Transformer`, each matrix of a linear layer counts for all real
    tokens, inputs and sources, and attention isn't counted: it is more, so the share is too low.

    Returns:
        () float64 on the batch's device, so that nobody waits for the device.
    """
    lengths = batch.lengths.double()
    if batch.is_filler:
        return torch.zeros_like(lengths.sum())
    head = model.head
    products = lengths.new_tensor(_matrix_size(head) * batch.target_count)
    if not isinstance(model, Transformer):
        return 6 * (products + (_matrix_size(model) - _matrix_size(head)) * batch.real_count)
    stacks = [stack for stack in (model.encoder, model.decoder) if stack is not None]
    sources = None
    if len(stacks) == 2 and batch.source_lengths is not None:
        sources = batch.source_lengths.double()
        products += _stack_products(stacks[0], sources, None)
    return 6 * (products + _stack_products(stacks[-1], lengths, sources))


def _stack_products(stack: Stack, lengths: Tensor, sources: Tensor | None) -> Tensor:
    """Multiplications of a stack in forward, for sequences of these lengths (B,)."""
    pairs = _pairs(lengths, stack.visibility.window, causal=stack.visibility.causal)
    block = stack.blocks[0]
    assert isinstance(block, Block)
    products = _matrix_size(block) * lengths.sum()
    if sources is not None and block.cross is not None:
        # Keys and values of cross-attention are made of source tokens.
        products += _matrix_size(block.cross.key_value) * (sources - lengths).sum()
        pairs = pairs + (lengths * sources).sum()
    return len(stack.blocks) * (products + 2 * block.attention.query.out_features * pairs)


def _pairs(lengths: Tensor, window: int | None, *, causal: bool) -> Tensor:
    """How many pairs of a token and one that it sees there are in sequences of these lengths."""
    reach = lengths if window is None else lengths.clamp(max=window + 1)
    # Looking back, itself included: 1, 2, … up to `reach`, and then `reach` for all others.
    back = reach * (reach + 1) / 2 + (lengths - reach) * reach
    return (back if causal else 2 * back - lengths).sum()


def _matrix_size(module: object) -> int:
    """Weights of all linear layers in a module."""
    assert isinstance(module, nn.Module)
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


@torch.no_grad()
def measured_peak(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """FLOP/s of the fastest plain matrix product that this process finds within `seconds`."""
    best = 0.0
    shapes = SHAPES[device.type]
    for m, k, n in shapes:
        a = torch.ones(m, k, device=device, dtype=dtype)
        b = torch.ones(k, n, device=device, dtype=dtype)
        out = a @ b
        _wait(device)
        deadline = time.perf_counter() + seconds / len(shapes)
        while (started := time.perf_counter()) < deadline:
            torch.mm(a, b, out=out)
            _wait(device)
            best = max(best, 2 * m * k * n / (time.perf_counter() - started))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
