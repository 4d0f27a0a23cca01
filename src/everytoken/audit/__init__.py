"""Measures that every token counts once: of a fork (`python -m audit`), and of foreign code.

`subject.py` builds what of a fork is audited, `observe.py` watches a step and an evaluation on any
number of ranks, `checks_*.py` hold one function for each check, `report.py` runs them. `foreign/`
is the same for code that isn't ours. Its face: the names in __init__.pyi, loaded on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
