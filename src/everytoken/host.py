"""Values that the host reads from the device without waiting for the device."""

import torch
from torch import Tensor


class HostCopy:
    """Values on their way to the host.

    To read them waits until this copy is made, not for what the device was told to do since: read
    late, they cost nothing.

    Args:
        values: of any shape, on any device.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values.to("cpu", non_blocking=values.is_cuda)
        self.copied: torch.cuda.Event | None = None
        if values.is_cuda:
            self.copied = torch.cuda.Event()
            self.copied.record()

    def read(self) -> Tensor:
        """The values, on the CPU."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.values
