"""The job behind `python -m generate`: answers lines of text with a trained model."""

import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import torch

from everytoken.build import instantiate
from everytoken.collate import collate
from everytoken.errors import UserError
from everytoken.evaluation import load_module
from everytoken.module import TokenModule
from everytoken.objective import MaskedLM, Objective
from everytoken.runs import Run
from everytoken.tokenizer import Tokenizer


def generate(run_dir: str, checkpoint: str, max_new_tokens: int, batch_size: int) -> None:
    """Answer each line of standard input.

    A sequence-to-sequence model translates it, a causal one continues it, a masked one fills in
    each "<mask>".

    Args:
        run_dir: the run.
        checkpoint: "best" or "last".
        max_new_tokens: longest answer.
        batch_size: lines that are answered together; at a terminal, each at once.
    """
    run = Run.open(Path(run_dir))
    cfg = run.config
    tokenizer = Tokenizer.load(run.tokenizer_file)
    module = load_module(run, cfg, tokenizer, checkpoint)
    module = module.to("cuda" if torch.cuda.is_available() else "cpu")
    objective: Objective = instantiate(
        cfg.task, "objective", special=tokenizer.special, vocabulary=len(tokenizer)
    )
    size = 1 if sys.stdin.isatty() else batch_size
    try:
        for lines in chunks(sys.stdin.buffer, size):
            for line in answer(lines, module, objective, tokenizer, max_new_tokens):
                print(line, flush=True)
    except BrokenPipeError:  # the reader (head, say) has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@torch.inference_mode()
def answer(
    lines: list[str],
    module: TokenModule,
    objective: Objective,
    tokenizer: Tokenizer,
    max_new_tokens: int,
) -> list[str]:
    """The model's answer to each line."""
    ids = [tokenizer.encode_with_masks(line) for line in lines]
    prompts = collate([objective.prompt(line) for line in ids], tokenizer.special.pad)
    prompts = prompts.to(module.device)
    if not isinstance(objective, MaskedLM):
        return [tokenizer.decode(new) for new in module.generate(prompts, max_new_tokens)]
    filled = prompts.input_ids.clone()
    filled[prompts.is_target] = module.head(module.model(prompts)).argmax(-1)
    return [
        tokenizer.decode(row[: len(own)]) for row, own in zip(filled.tolist(), ids, strict=True)
    ]


def chunks(stream: BinaryIO, size: int) -> Iterator[list[str]]:
    """Lines of UTF-8 text without their ends, `size` at a time.

    Raises:
        UserError: bytes that are no UTF-8, with the line's number.
    """

    def text(number: int, line: bytes) -> str:
        try:
            return line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"line {number} of the input is not UTF-8: {error.reason}") from error

    lines = (text(*numbered) for numbered in enumerate(iter(stream.readline, b""), start=1))
    while chunk := list(islice(lines, size)):
        yield chunk
