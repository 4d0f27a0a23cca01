from .logger import build_logger as build_logger
from .logger import tensorboard_logger as tensorboard_logger
from .logger import wandb_logger as wandb_logger
