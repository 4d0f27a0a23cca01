"""The job behind `python -m generate`: lines in, lines out."""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from everytoken.commands.answers import Answerer, fills, generates_nothing
from everytoken.commands.build import build_decoding
from everytoken.commands.conversing import ENDINGS, answered, converse
from everytoken.commands.evaluate import load_module
from everytoken.commands.factory import factory
from everytoken.commands.lines import breaks_shown, check_lines, count, lines, sink, source
from everytoken.commands.memory import explained, fewer_lines
from everytoken.config.literal import shown_command
from everytoken.data.objective import build_objective
from everytoken.decoding.sampling import OneByOne
from everytoken.errors import UserError
from everytoken.run.directory import Run
from everytoken.runtime.console import Watch, beside_output, warn
from everytoken.tokenizer.tokenizer import Tokenizer


@beside_output()
def generate(
    run_dir: str,
    checkpoint: str,
    decoding: dict[str, Any] | None,
    max_new_tokens: int,
    batch_size: int,
    input: str | None,
    output: str | None,
    stream: bool | None,
    chat: bool = False,
) -> None:
    """Answer each line of a text with a line.

    A sequence-to-sequence model translates it, a causal one continues it, a masked one fills in
    each "<mask>", one of classes tells them with their probability. One that was trained on
    conversations answers them, a line of JSON each.

    Args:
        run_dir: the run.
        checkpoint: a name, see `NamedCheckpoint`.
        decoding: a decoding config; None for the run's own.
        max_new_tokens: longest answer.
        batch_size: lines that are answered together; at a terminal, each at once.
        input: the file to read; None for standard input.
        output: the file to write; None for standard output.
        stream: True to write each answer piece by piece; None for yes if both ends are a terminal.
        chat: True if all lines are a user's in one conversation.

    Raises:
        UserError: what can't be read, written or streamed; a decoding for a masked model; a chat
            with a model that was trained on something else.
    """
    run = Run(Path(run_dir))
    cfg = run.config
    if decoding is not None:
        cfg.decoding = decoding
    tokenizer = Tokenizer.load(run.tokenizer_file)
    objective = build_objective(factory(cfg, "task.objective"), tokenizer)
    if decoding is not None and fills(objective, tokenizer):
        what = generates_nothing(tokenizer)
        raise UserError(f"{run_dir} is {what}, which takes no decoding: leave it out")
    of_talks = input is not None and Path(str(input)).suffix in ENDINGS
    if chat and not hasattr(objective, "ask"):
        raise UserError(
            f"{run_dir} wasn't trained on conversations, as task=sft is: leave chat out"
        )
    if chat and of_talks:
        raise UserError(
            f"chat=true is one conversation, and {input} has one in each line: leave chat out"
        )
    of_talks = of_talks and hasattr(objective, "ask")
    if input is not None:
        answers_lines = shown_command("generate", run=run.shown)
        check_lines(Path(str(input)), answers_lines, ENDINGS if of_talks else ())
    module = load_module(run, cfg, tokenizer, checkpoint)
    module = module.to("cuda" if torch.cuda.is_available() else "cpu")
    answerer = Answerer(module, objective, tokenizer, max_new_tokens, longest_trained(run))
    typed = input is None and sys.stdin.isatty()
    read = output is None and sys.stdout.isatty()
    if stream is None:
        in_pieces = not (answerer.fills or answerer.restores)
        stream = typed and read and in_pieces and isinstance(build_decoding(cfg), OneByOne)
    try:
        with (
            explained(module, fewer_lines(batch_size), cfg),
            source(None if input is None else Path(str(input))) as incoming,
            sink(None if output is None else Path(str(output))) as outgoing,
        ):
            shown = str if read else breaks_shown
            if chat:
                converse(
                    answerer, incoming, outgoing, shown, stream=bool(stream), prompts=typed and read
                )
                return
            texts = lines(incoming, str(input or "the input"))
            if stream and not of_talks:
                for key, text in enumerate(texts):
                    for piece in answerer.stream(text, key):
                        outgoing.write(shown(piece))
                        outgoing.flush()
                    outgoing.write("\n")
                    outgoing.flush()
                return
            total = count(Path(str(input))) if input is not None and not read else None
            watch = Watch("answering", lambda: answerer.answered, total, "lines")
            with nullcontext() if typed or read else watch:
                together = 1 if typed else batch_size
                answers = answerer.answers(texts, together)
                if of_talks:
                    answers = answered(answerer, texts, str(input), together)
                for answer in answers:
                    outgoing.write(breaks_shown(answer) + "\n")
                    outgoing.flush()
    except BrokenPipeError:  # the reader (head, say) has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def longest_trained(run: Run) -> int | None:
    """Real tokens of the longest example that a run was trained on; None if nobody knows."""
    if not run.data_file.is_file():
        return None
    try:
        return json.loads(run.data_file.read_text(encoding="utf-8"))["splits"]["train"]["longest"]
    except (OSError, ValueError, LookupError, TypeError):
        warn(f"{run.data_file} can't be read: longer lines than any of training aren't told")
        return None
