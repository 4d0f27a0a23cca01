"""RMSNorm and dropout as torch has them, in a form that is fast on CPUs too.

There torch's RMSNorm falls apart into a dozen passes over memory, and its dropout draws one number
per channel: together they took a fifth of a step. Elsewhere, and in compiled models, torch's own
are used.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from everytoken.precision import compute_dtype


def _is_eager_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


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
        if _is_eager_cpu(x):
            return _RMSNorm.apply(x, self.weight, self.eps, dtype)
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps).to(dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        scale = squares.div_(x.shape[-1]).add_(eps).rsqrt_()  # (N, 1)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        gradient = gradient.to(x.dtype)
        normed = x * scale
        along = gradient * normed
        shrink = (along @ weight).div_(-x.shape[-1]).unsqueeze(-1)  # (N, 1)
        d_x = (gradient * weight).addcmul_(normed, shrink).mul_(scale)
        return d_x, along.sum(0), None, None


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
        return x * _keep(x, self.p) if _is_eager_cpu(x) else F.dropout(x, self.p)


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


def _keep(x: Tensor, p: float) -> Tensor:
    """What to multiply x with: 0 where it is dropped, 1 / (share of what is kept) elsewhere."""
    # A draw of 64 random bits serves four channels.
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    chance = draws.view(torch.int16)[: x.numel()].view(x.shape).float()  # -32768 to 32767
    dropped = round(p * 65536)
    keep = chance.sub_(dropped - 32769).clamp_(0, 1)  # of whole numbers, so 0 or 1
    return keep.mul_(65536 / (65536 - dropped)).to(x.dtype)
