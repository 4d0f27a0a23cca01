"""In which precision something is computed."""

import pytest
import torch

from everytoken.model.precision import compute_dtype, unused_gpu, warning, without_autocast

CPU = torch.device("cpu")


def test_products_are_computed_in_autocasts_dtype_if_it_is_on():
    x = torch.ones(2, 2)
    assert compute_dtype(x) == torch.float32
    assert compute_dtype(x.double()) == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compute_dtype(x) == (x @ x).dtype == torch.bfloat16
        with without_autocast(x):
            assert compute_dtype(x) == (x @ x).dtype == torch.float32


def test_bf16_is_warned_of_where_it_is_slow(monkeypatch: pytest.MonkeyPatch):
    for capability, is_slow in (("AVX2", True), ("AVX512", False), ("SVE256", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        assert bool(warning(CPU, torch.bfloat16)) == is_slow
        assert warning(CPU, torch.float32) is None


def test_an_apple_gpu_isnt_used_and_that_is_said(monkeypatch: pytest.MonkeyPatch):
    assert unused_gpu("auto") is None
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert "float64" in (unused_gpu("auto") or "")
    assert unused_gpu("cpu") is None
