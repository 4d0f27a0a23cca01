"""Training in float64."""

from typing import Any

from lightning.pytorch.plugins.precision.double import DoublePrecision


class Double(DoublePrecision):
    """Weights in float64. A batch holds ids, which stay as they are."""

    def convert_input(self, data: Any) -> Any:
        """Lightning would look for tensors inside of it."""
        return data
