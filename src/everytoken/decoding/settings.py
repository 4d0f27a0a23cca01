"""What settings of generation may be, checked before anything heavy is imported."""

from collections.abc import Mapping
from typing import Any

from everytoken.errors import check_number

MOST_LENGTH_PENALTY = 20
"""An answer of a million tokens to this power is still a float."""


def check_beam_search(decoding: Mapping[str, Any]) -> None:
    """Refuse arguments of `BeamSearch` that make no sense.

    Raises:
        UserError: the first of them.
    """
    check_number("decoding.beams", decoding["beams"], int, low=1, most=1000)
    penalty = decoding["length_penalty"]
    check_number("decoding.length_penalty", penalty, float, low=0, most=MOST_LENGTH_PENALTY)


def check_sampling(decoding: Mapping[str, Any]) -> None:
    """Refuse arguments of `Sampling` that make no sense.

    Raises:
        UserError: the first of them.
    """
    check_number("decoding.temperature", decoding["temperature"], float, low=1e-4)
    check_number("decoding.top_p", decoding["top_p"], float, low=1e-4, most=1, optional=True)
    check_number("decoding.top_k", decoding["top_k"], int, low=1, optional=True)
    check_number("decoding.seed", decoding["seed"], int, low=0)


CHECKS = {"BeamSearch": check_beam_search, "Sampling": check_sampling}
"""By the name of the part."""
