"""everytoken: every token counts once.

The names in __init__.pyi load on first use, so that importing the package (which the command line
does before it has checked a config) doesn't import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
