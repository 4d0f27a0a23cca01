"""The job behind `python -m generate`: answers lines of text with a trained model."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from everytoken.commands.build import build_decoding, instantiate
from everytoken.commands.evaluate import load_module
from everytoken.commands.lines import breaks_shown, count, lines, sink, source
from everytoken.commands.memory import explained, fewer_lines
from everytoken.data.collate import collate
from everytoken.data.objective import MaskedLM, Objective
from everytoken.decoding.continuation import check_finite
from everytoken.decoding.generate import stream
from everytoken.decoding.sampling import OneByOne
from everytoken.errors import UserError
from everytoken.run.directory import Run
from everytoken.runtime.console import Watch, beside_output
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.module import TokenModule

BATCHES_AT_ONCE = 16
"""Of so many batches of lines those of like length are answered together."""


class Answerer:
    """A trained model that answers lines.

    Args:
        module: in evaluation mode.
        objective: what it was trained for.
        tokenizer: its tokenizer.
        max_new_tokens: longest answer.
    """

    def __init__(
        self, module: TokenModule, objective: Objective, tokenizer: Tokenizer, max_new_tokens: int
    ) -> None:
        self.module = module
        self.objective = objective
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.answered = 0
        """Lines so far."""

    @property
    def fills(self) -> bool:
        """True if it fills masks in, False if it goes on."""
        return isinstance(self.objective, MaskedLM)

    def encode(self, text: str) -> list[int]:
        """Token ids of a line; "<mask>" is a mask only where masks are filled in."""
        if self.fills:
            return self.tokenizer.encode_with_masks(text)
        return self.tokenizer.encode([text])[0]

    @torch.inference_mode()
    def answer(self, rows: list[list[int]], keys: list[int]) -> list[str]:
        """The answer to each of some lines of token ids; `keys` are the numbers of the lines."""
        special = self.tokenizer.special
        examples = [self.objective.prompt(row) for row in rows]
        prompts = collate(examples, special.pad, indices=keys)
        prompts = prompts.to(self.module.device)
        if not self.fills:
            new = self.module.generate(prompts, self.max_new_tokens)
            return [self.tokenizer.decode(ids) for ids in new]
        filled = prompts.input_ids.clone()
        if prompts.target_count:
            logits = self.module.head(self.module.hidden(prompts))
            check_finite(logits)
            filled[prompts.is_target] = logits.argmax(-1)
        pairs = zip(filled.tolist(), rows, strict=True)
        return [self.tokenizer.decode(row[: len(own)]) for row, own in pairs]

    def answers(self, texts: Iterable[str], batch_size: int) -> Iterator[str]:
        """The answers in the order of the texts, which are read as they are needed."""
        at_once = batch_size * BATCHES_AT_ONCE if batch_size > 1 else 1
        numbered = enumerate(texts)
        while chunk := [(key, self.encode(text)) for key, text in islice(numbered, at_once)]:
            chunk.sort(key=lambda line: len(line[1]))
            found: dict[int, str] = {}
            for first in range(0, len(chunk), batch_size):
                keys, rows = zip(*chunk[first : first + batch_size], strict=True)
                found.update(zip(keys, self.answer([*rows], [*keys]), strict=True))
                self.answered += len(keys)
            yield from (found[key] for key in sorted(found))

    def stream(self, text: str, key: int) -> Iterator[str]:
        """The answer to one line, in pieces, as soon as they are known.

        Raises:
            UserError: the answer is only known as a whole.
        """
        decoding = self.module.decoding
        if self.fills or not isinstance(decoding, OneByOne):
            what = "a masked model" if self.fills else type(decoding).__name__
            raise UserError(
                f"stream=true doesn't go with {what}, whose answer is only known as a whole: "
                "set stream=false"
            )
        special = self.tokenizer.special
        example = self.objective.prompt(self.encode(text))
        prompt = collate([example], special.pad, indices=[key])
        ids: list[int] = []
        shown = ""
        for token in stream(
            self.module.model,
            self.module.head,
            prompt.to(self.module.device),
            decoding,
            end_id=special.eos,
            max_new_tokens=self.max_new_tokens,
        ):
            ids.append(token)
            answer = self.tokenizer.decode(ids)
            if not answer.endswith("\N{REPLACEMENT CHARACTER}"):  # half of a character's bytes
                yield answer[len(shown) :]
                shown = answer
        yield self.tokenizer.decode(ids)[len(shown) :]


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
) -> None:
    """Answer each line of a text with a line.

    A sequence-to-sequence model translates it, a causal one continues it, a masked one fills in
    each "<mask>".

    Args:
        run_dir: the run.
        checkpoint: "best" or "last".
        decoding: a decoding config; None for the run's own.
        max_new_tokens: longest answer.
        batch_size: lines that are answered together; at a terminal, each at once.
        input: the file to read; None for standard input.
        output: the file to write; None for standard output.
        stream: True to write each answer piece by piece; None for yes if both ends are a terminal.

    Raises:
        UserError: what can't be read, written or streamed; a decoding for a masked model.
    """
    run = Run(Path(run_dir))
    cfg = run.config
    if decoding is not None:
        cfg.decoding = decoding
    tokenizer = Tokenizer.load(run.tokenizer_file)
    objective: Objective = instantiate(
        cfg, "task.objective", special=tokenizer.special, vocabulary=len(tokenizer)
    )
    if decoding is not None and isinstance(objective, MaskedLM):
        raise UserError(f"{run_dir} fills in masks, which takes no decoding: leave it out")
    module = load_module(run, cfg, tokenizer, checkpoint)
    module = module.to("cuda" if torch.cuda.is_available() else "cpu")
    answerer = Answerer(module, objective, tokenizer, max_new_tokens)
    typed = input is None and sys.stdin.isatty()
    read = output is None and sys.stdout.isatty()
    if stream is None:
        stream = typed and read and not answerer.fills and isinstance(build_decoding(cfg), OneByOne)
    try:
        with (
            explained(module, fewer_lines(batch_size)),
            source(None if input is None else Path(str(input))) as incoming,
            sink(None if output is None else Path(str(output))) as outgoing,
        ):
            texts = lines(incoming, str(input or "the input"))
            if stream:
                for key, text in enumerate(texts):
                    for piece in answerer.stream(text, key):
                        outgoing.write(piece if read else breaks_shown(piece))
                        outgoing.flush()
                    outgoing.write("\n")
                    outgoing.flush()
                return
            total = count(Path(str(input))) if input is not None and not read else None
            watch = Watch("answering", lambda: answerer.answered, total, "lines")
            with nullcontext() if typed or read else watch:
                for answer in answerer.answers(texts, 1 if typed else batch_size):
                    outgoing.write(breaks_shown(answer) + "\n")
                    outgoing.flush()
    except BrokenPipeError:  # the reader (head, say) has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
