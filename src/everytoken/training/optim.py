"""What the optimizer is given."""

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The model's trained parameters: matrices decay, norms and biases are left alone."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [p for p in trained if p.ndim >= 2]}]
    if other := [p for p in trained if p.ndim < 2]:
        groups.append({"params": other, "weight_decay": 0.0})
    return groups
