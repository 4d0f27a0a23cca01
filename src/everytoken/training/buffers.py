"""Buffers that checkpoints keep (running means, say): the same on all ranks, and left alone by what
isn't a step.

Each rank feeds its own with its own micro-batches, while a checkpoint has those of rank 0. So after
each step all ranks are given those: what is validated is what is saved, on any rank, and what a run
goes on with is what it had.
"""

import torch
from torch import Tensor, nn


def saved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The model's persistent buffers, by name: others are not in its `state_dict`."""
    buffers = dict(model.named_buffers())
    if not buffers:
        return {}
    saved = model.state_dict()
    return {name: buffer for name, buffer in buffers.items() if name in saved}


def share_buffers(model: nn.Module) -> None:
    """Give all ranks the buffers of rank 0, in one exchange; all must call this together."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return
    buffers = list(saved_buffers(model).values())
    if not buffers:
        return
    parts = [buffer.detach().reshape(-1).view(torch.uint8) for buffer in buffers]
    packed = torch.cat(parts)
    torch.distributed.broadcast(packed, src=0)
    for buffer, part in zip(buffers, packed.split([len(part) for part in parts]), strict=True):
        # Cloned, since a view of another type must begin at a multiple of its size.
        buffer.detach().copy_(part.clone().view(buffer.dtype).view(buffer.shape))


class KeptBuffers:
    """A copy of a model's buffers, to be put back after forwards that are not to count.

    Args:
        model: it, on this rank.
    """

    def __init__(self, model: nn.Module) -> None:
        self.values = {name: value.clone() for name, value in saved_buffers(model).items()}

    def restore(self, model: nn.Module) -> None:
        """Put them back; a buffer may be another tensor by now."""
        for name, value in self.values.items():
            model.get_buffer(name).detach().copy_(value)
