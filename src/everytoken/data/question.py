"""A line of text whose classes are asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from everytoken.data.collate import Example


@dataclass(frozen=True, eq=False)
class Question(Example):
    """What is asked of a model that tells classes: any class stands at each place to be told.

    Args:
        tell: what is answered, from the probabilities of the classes (targets, classes).
    """

    tell: Callable[[NDArray[np.floating]], str] = field(kw_only=True)
