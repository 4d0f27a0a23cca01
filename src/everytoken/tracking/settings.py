"""What settings of a tracker may be, checked before anything heavy is imported."""

from collections.abc import Mapping
from typing import Any

from everytoken.errors import check_choice, check_number


def check_wandb(logger: Mapping[str, Any]) -> None:
    """Refuse arguments of `wandb_logger` that make no sense.

    Raises:
        UserError: the first of them.
    """
    check_choice("logger.mode", logger["mode"], ("auto", "online", "offline"))
    check_choice("logger.log_checkpoints", logger["log_checkpoints"], ("none", "best", "all"))
    check_number("logger.keep_checkpoints", logger["keep_checkpoints"], int, low=1)
    check_number("logger.predictions", logger["predictions"], int, low=0)


CHECKS = {"wandb_logger": check_wandb}
"""By the name of the part."""
