"""What was exported, loaded again: it must compute what the run does.

Shapes: B sequences, T positions, M target tokens, V vocabulary.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everytoken.batch import Batch
from everytoken.errors import UserError, one_line
from everytoken.hf.adapter import peft
from everytoken.model.transformer import Shape
from everytoken.runtime.console import warn
from everytoken.tokenizer.tokenizer import Tokenizer

TOLERANCE = 1e-3
"""Largest relative difference of the logits: other kernels round otherwise."""

PLAIN = (
    "let it be a plain model of transformers before it goes out, as merge_and_unload() of peft does"
)


def network_in(
    folder: Path, auto: str, hf: Any, adapter: Path | None = None
) -> Callable[[Batch], Tensor]:
    """The model in a folder, loaded by a class of transformers: `Batch` → logits (B, T, V).

    Args:
        folder: of the model.
        auto: name of the class.
        hf: transformers.
        adapter: folder of an adapter that peft puts on it.

    Raises:
        UserError: it can't be loaded; weights are missing, or have no place in it.
    """
    try:
        network, info = getattr(hf, auto).from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise UserError(
            f"transformers can't load what was written ({one_line(error, 300)}): {PLAIN}"
        ) from error
    for what in ("missing", "unexpected", "mismatched"):
        if keys := sorted(map(str, info[f"{what}_keys"])):
            raise UserError(
                f"{len(keys)} weights are {what} where {type(network).__name__} loads what was "
                f"written, {keys[0]} for one: {PLAIN}"
            )
    if adapter is not None:
        network = peft().PeftModel.from_pretrained(network, adapter)
    network.eval()

    def logits(batch: Batch) -> Tensor:
        tokens = {"input_ids": batch.input_ids, "attention_mask": batch.is_real.long()}
        if batch.source_ids is not None:
            source_ids, is_real = batch.first_side
            tokens = {f"decoder_{name}": ids for name, ids in tokens.items()}
            tokens |= {"input_ids": source_ids, "attention_mask": is_real.long()}
        return network(**tokens).logits

    return logits


def program_in(file: Path) -> Callable[[Batch], Tensor]:
    """The program in a file: `Batch` → logits (B, T, V)."""
    program: Any = torch.export.load(file).module()
    return lambda batch: program(
        batch.source_ids, batch.source_lengths, batch.input_ids, batch.lengths
    )


@torch.no_grad()
def check_same(found: Callable[[Batch], Tensor], right: Tensor, batch: Batch) -> None:
    """Compare what was loaded with what the run computes.

    Args:
        found: `Batch` → logits (B, T, V), or (B, C) of classes of sequences.
        right: (M, V) logits of the target tokens.
        batch: padded on the right.

    Raises:
        UserError: they differ.
    """
    logits = found(batch)
    logits = logits if logits.ndim == 2 else logits[batch.is_target]
    difference = (logits - right).norm() / right.norm()
    if not difference <= TOLERANCE:  # NaN isn't either
        raise UserError(
            f"what was written gives other logits than the run (they differ by {difference:.1e}): "
            "the model's class does more than what can go out"
        )


def check_encoding(tokenizer: Tokenizer, shape: Shape, folder: Path, hf: Any) -> None:
    """Tell if transformers reads a text that spells special tokens otherwise than training did."""
    theirs = hf.AutoTokenizer.from_pretrained(folder)
    masked = shape == "encoder" and not tokenizer.labels
    keep = {tokenizer.special.unk, *([tokenizer.special.mask] if masked else [])}
    added = tokenizer.engine.get_added_tokens_decoder()
    names = [token.content for id_, token in added.items() if token.special and id_ not in keep]
    texts = {name: f"a {name} b{name}c" for name in names}
    ids = dict(zip(texts, tokenizer.encode([*texts.values()]), strict=True))
    other = [n for n in names if theirs(texts[n], add_special_tokens=False)["input_ids"] != ids[n]]
    if other:
        more = f" (and {len(other) - 3} more)" if len(other) > 3 else ""
        reason = "the tokenizer has it as a word"
        if masked:
            reason = "it finds all special tokens or none, and a masked model needs its mask"
        elif tokenizer.chat_template is not None:
            reason = "it finds all special tokens or none, and a chat template needs its markup"
        warn(
            f"text that spells {' or '.join(other[:3])}{more} was text in training; transformers "
            f"takes it for the token: {reason}"
        )
