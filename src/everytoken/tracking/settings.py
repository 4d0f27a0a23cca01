"""What settings of a tracker may be, checked before anything heavy is imported."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from everytoken.errors import UserError, check_choice, check_number
from everytoken.runtime.console import install


def check_wandb(logger: Mapping[str, Any]) -> None:
    """Refuse arguments of `wandb_logger` that make no sense.

    Raises:
        UserError: the first of them.
    """
    key, kept = "logger.wandb.{}".format, logger["log_checkpoints"]
    check_choice(key("mode"), logger["mode"], ("auto", "online", "offline"))
    check_choice(key("log_checkpoints"), kept, ("none", "best", "all"))
    check_number(key("keep_checkpoints"), logger["keep_checkpoints"], int, low=1)
    check_number(key("predictions"), logger["predictions"], int, low=0)


def check_tensorboard(logger: Mapping[str, Any]) -> None:
    """Refuse to begin without the package.

    Raises:
        UserError: with how it is installed.
    """
    if not any(map(find_spec, ("tensorboard", "tensorboardX"))):
        raise UserError(f"logger=tensorboard needs a package: {install('tensorboard')}")


CHECKS = {"wandb_logger": check_wandb, "tensorboard_logger": check_tensorboard}
"""By the name of the part."""
