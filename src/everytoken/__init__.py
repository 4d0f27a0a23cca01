"""everytoken: every token counts once.

The names in __init__.pyi load on first use, so that importing the package (which the command line
does before it has checked a config) doesn't import torch.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, _names, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __dir__() -> list[str]:
    return [*_names(), "__version__"]
