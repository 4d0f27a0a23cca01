"""Reading values late."""

import pytest
import torch

from everytoken.training.distributed import HostCopy

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_values_are_those_at_the_time_of_the_copy(device: str):
    values = torch.arange(3, device=device)
    copy = HostCopy(values)
    values = values * 0
    assert copy.read().tolist() == [0, 1, 2]
    assert copy.read().device.type == "cpu"
