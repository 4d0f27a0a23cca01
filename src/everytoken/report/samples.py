"""How a language model goes on from beginnings of validation texts, to be read."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from everytoken.batch import Batch, References, select
from everytoken.callbacks.predictions import pieces
from everytoken.decoding.generate import Prediction, beginnings, generate, reads_its_target
from everytoken.decoding.sampling import Greedy
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.distributed import gathered
from everytoken.training.module import TokenModule

TOKENS = 40
"""Most tokens that are generated of a sample, and shown of a text."""


@torch.no_grad()
def samples(
    module: TokenModule, batch: Batch, tokenizer: Tokenizer, count: int
) -> list[dict[str, Any]]:
    """The longest texts cut in their middle, with how they go on and how the model does.

    All ranks call it together. The most likely token is taken, so no random number is drawn.

    Args:
        module: in evaluation mode.
        batch: B sequences of a split.
        tokenizer: of the run.
        count: most samples.

    Returns:
        Nothing of a model that is none of language: whose targets are not its own inputs.
    """
    inputs, targets = select(batch.input_ids, batch.is_real), select(batch.labels, batch.is_target)
    rows = [Prediction(*row, []) for row in zip(inputs, targets, strict=True)]
    if batch.source_ids is not None or not all(reads_its_target(row, tokenizer) for row in rows):
        return []
    halves = [max(1, len(row) // 2) for row in inputs]
    known = References([None] * len(rows), halves, byte_count=0, longest=TOKENS)
    prompts = beginnings(replace(batch, references=known)).to(module.device)
    with gathered(module.model):
        found = generate(
            *(module.model, module.head, prompts, Greedy()),
            end_id=module.special.eos,
            max_new_tokens=TOKENS,
        )
    longest = sorted(range(len(rows)), key=lambda i: -len(inputs[i]))[:count]

    def shown(ids: Sequence[int]) -> str:
        return "".join(text for text, _ in pieces(ids, [True] * len(ids), tokenizer, TOKENS))

    return [
        {
            "prompt": ("…" if halves[i] > TOKENS else "") + shown(inputs[i][: halves[i]][-TOKENS:]),
            "text": shown(inputs[i][halves[i] :]),
            "sample": shown(found[i]),
        }
        for i in longest
    ]
