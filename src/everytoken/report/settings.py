"""What settings of the report may be, checked before anything heavy is imported."""

from collections.abc import Mapping
from typing import Any

from everytoken.errors import check_number


def check_report(callback: Mapping[str, Any]) -> None:
    """Refuse arguments of `WriteReport` that make no sense.

    Raises:
        UserError: the first of them.
    """
    for key in ("sequences", "positions", "predictions"):
        check_number(f"callbacks.report.{key}", callback[key], int, low=1)


CHECKS = {"WriteReport": check_report}
"""By the name of the part."""
