"""Memory that is short: what was being worked on, and which setting needs less."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.memory import is_oom_error

from everytoken.batch import Batch
from everytoken.errors import UserError, one_line
from everytoken.training.module import TokenModule

WANTED = re.compile(r"allocate (\d+ bytes|[\d.]+ [KMGTP]?iB)")
"""How much the allocators of CUDA, of torch on the CPU and of numpy say that was asked for."""
LARGER = "a smaller model (model.*), precision=bf16, or trainer=fsdp on several GPUs"


@contextmanager
def explained(module: TokenModule, advice: Callable[[Batch], str]) -> Iterator[None]:
    """Say in one line what to do when memory isn't enough.

    Args:
        module: what works in this context.
        advice: what to do if a micro-batch of several examples doesn't fit.

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
        raise UserError(_message(error, module, advice)) from error


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


def _message(error: BaseException, module: TokenModule, advice: Callable[[Batch], str]) -> str:
    wanted = WANTED.search(str(error))
    device = "the CPU" if module.device.type == "cpu" else str(module.device)
    line = f"out of memory on {device}"
    if wanted:
        line += f" (asked for {wanted[1]} more)"
    batch = module.step.batch
    if batch is None:
        return f"{line} for weights, gradients or the optimizer: use {LARGER}"
    line += f" in a micro-batch, {batch}"
    if len(batch.lengths) == 1:
        return (
            f"{line}: even one example doesn't fit, so use {LARGER}, or shorter examples "
            "(task.objective.max_tokens or window_tokens)"
        )
    return f"{line}: {advice(batch)}"
