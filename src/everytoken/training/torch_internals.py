"""All that training uses of torch which it doesn't document.

Checked with torch 2.13. tests/training/test_upstream.py says what another version has changed.
"""

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["OpOverload", "TorchDispatchMode", "written_arguments"]


def written_arguments(operation: OpOverload) -> list[int]:
    """Places of the arguments that an operation writes to, by its schema."""
    arguments = operation._schema.arguments
    return [
        i for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write
    ]
