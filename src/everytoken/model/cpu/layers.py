"""RMSNorm, dropout and SwiGLU in a form that is fast on CPUs.

There torch's RMSNorm falls apart into a dozen passes over memory, and its dropout draws one number
per channel: together they took a fifth of a step. SwiGLU's halves are written where they lie side
by side, and not copied there. Elsewhere, and in compiled models, torch's own are used.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def is_eager_cpu(x: Tensor) -> bool:
    """True where these are the faster ones."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Zhang and Sennrich 2019, eq. 4: x (N, D) and weight (D,) → (N, D) in `dtype`."""
    return _RMSNorm.apply(x, weight, eps, dtype)  # pyright: ignore[reportReturnType]


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


def keep_or_drop(x: Tensor, p: float) -> Tensor:
    """What to multiply x with: 0 where it is dropped, 1 / (share of what is kept) elsewhere."""
    # A draw of 64 random bits serves four channels.
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    uniform = draws.view(torch.int16)[: x.numel()].view(x.shape).float()  # -32768 to 32767
    dropped = round(p * 65536)
    keep = uniform.sub_(dropped - 32769).clamp_(0, 1)  # of whole numbers, so 0 or 1
    return keep.mul_(65536 / (65536 - dropped)).to(x.dtype)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of two halves side by side: (N, 2 * F) → (N, F)."""
    return _SwiGLU.apply(gate_up)  # pyright: ignore[reportReturnType]


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activated = F.silu(gate)
        ctx.save_for_backward(gate_up, activated)
        return activated * up

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        gate_up, activated = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        d_gate_up = torch.empty_like(gate_up)
        d_gate, d_up = d_gate_up.chunk(2, dim=-1)
        torch.mul(gradient, activated, out=d_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=d_gate)
        return d_gate_up
