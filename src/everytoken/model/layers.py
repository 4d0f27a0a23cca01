"""RMSNorm, dropout and SwiGLU: torch's own, or on eager CPUs the faster ones of `cpu/layers.py`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everytoken.model.cpu import layers as cpu
from everytoken.model.precision import compute_dtype


class RMSNorm(nn.Module):
    """Root mean square layer normalization (Zhang and Sennrich 2019, eq. 4): (N, D) → (N, D).

    The result is in the dtype of the matrix products that it goes into, so that it is rounded once
    for all of them.

    Args:
        width: D.
        eps: added to the mean square.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) → (N, D)."""
        dtype = compute_dtype(x)
        if cpu.is_eager_cpu(x):
            return cpu.rms_norm(x, self.weight, self.eps, dtype)
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps).to(dtype)


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014), with p rounded to 1/65536 on CPUs.

    Args:
        p: probability of dropping a channel, at least 0 and below 1.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, kept."""
        if self.p == 0 or not self.training:
            return x
        return x * cpu.keep_or_drop(x, self.p) if cpu.is_eager_cpu(x) else F.dropout(x, self.p)


class TokenDropout(Dropout):
    """Hides whole tokens in training, so that others must tell (Gal and Ghahramani 2016).

    Args:
        p: probability of hiding a token, at least 0 and below 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (N, D) → (N, D), rows of zeros where a token is hidden."""
        if self.p == 0 or not self.training:
            return x
        return x * F.dropout(x.new_ones(len(x), 1), self.p)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020, eq. 6) of two halves side by side: (N, 2 * F) → (N, F)."""
    if cpu.is_eager_cpu(gate_up):
        return cpu.swiglu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
