"""Memory that is short: what was being worked on, and which setting needs less."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.memory import is_oom_error
from omegaconf import DictConfig

from everytoken.batch import Batch
from everytoken.errors import UserError, one_line
from everytoken.training.module import TokenModule

WANTED = re.compile(r"allocate (\d+ bytes|[\d.]+ [KMGTP]?iB)")
"""How much the allocators of CUDA, of torch on the CPU and of numpy say that was asked for."""


@contextmanager
def explained(
    module: TokenModule, advice: Callable[[Batch], str], cfg: DictConfig
) -> Iterator[None]:
    """Say in one line what to do when memory isn't enough.

    Args:
        module: what works in this context.
        advice: what to do if a micro-batch of several examples doesn't fit.
        cfg: of the run.

    Raises:
        UserError: instead of any error of an allocator, and of Lightning's own about settings.
    """
    try:
        yield
    except MisconfigurationException as error:  # what a callback says to settings, say
        raise UserError(one_line(error)) from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(_message(error, module, advice, cfg)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """True for what allocators raise: CUDA's, torch's on the CPU, Python's and numpy's."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or is_oom_error(error)


def fewer_tokens(microbatch_tokens: int, place: str) -> Callable[[Batch], str]:
    """Advice for training and evaluation: half of what didn't fit.

    Args:
        microbatch_tokens: the present setting.
        place: where it is to be changed, in words; "" for on the command line.
    """

    def advice(batch: Batch) -> str:
        fewer = max(1, min(microbatch_tokens, batch.unpadded_count) // 2)
        return (
            f"set data.microbatch_tokens={fewer}{place} (it is {microbatch_tokens}), "
            "which never changes the result"
        )

    return advice


def fewer_lines(batch_size: int) -> Callable[[Batch], str]:
    """Advice for generation: half as many lines together as `batch_size`."""
    return lambda batch: f"set batch_size={max(1, batch_size // 2)} (it is {batch_size})"


def levers(cfg: DictConfig, *, trains: bool, batch: bool) -> list[str]:
    """Settings that need less memory and aren't set yet, what costs least first.

    Args:
        cfg: of the run.
        trains: activations are kept for backward.
        batch: it is a micro-batch that doesn't fit, and not weights and what belongs to them.
    """
    found = []
    if batch and trains and cfg.model.get("checkpoint_activations") is False:
        found.append("model.checkpoint_activations=true")
    if batch and cfg.precision.mode == "32-true":
        found.append("precision=bf16")
    if cfg.trainer.strategy != "fsdp":
        found.append("trainer=fsdp on several GPUs")
    return [*found, "a smaller model (model.*)"]


def _message(
    error: BaseException, module: TokenModule, advice: Callable[[Batch], str], cfg: DictConfig
) -> str:
    wanted = WANTED.search(str(error))
    device = "the CPU" if module.device.type == "cpu" else str(module.device)
    line = f"out of memory on {device}"
    if wanted:
        line += f" (asked for {wanted[1]} more)"
    batch = module.step.batch
    if batch is None:
        ways = levers(cfg, trains=True, batch=False)
        return f"{line} for weights, gradients or the optimizer: use {' or '.join(ways)}"
    line += f" in a micro-batch, {batch}"
    if len(batch.lengths) == 1:
        ways = levers(cfg, trains=module.model.training, batch=True)
        ways.append("shorter examples (task.objective.max_tokens or window_tokens)")
        return f"{line}: even one example doesn't fit, so use {', or '.join(ways)}"
    return f"{line}: {advice(batch)}"
