"""The picture of a micro-batch: its tokens as they were collated, and the loss of each target.

Shapes: B sequences, T positions, S source positions, M target tokens, V vocabulary.
"""

import math
import unicodedata
from itertools import compress
from typing import Any

import numpy as np
import torch
from tokenizers import decoders

from everytoken.batch import IGNORE_INDEX, Batch
from everytoken.data.micro_batches import MicroBatches
from everytoken.data.order import Indices
from everytoken.data.sampler import StepPlan
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.loss import most_likely, target_losses
from everytoken.training.module import TokenModule

AT_ONCE = 64
"""Target tokens whose logits are computed together: V may be large."""

WIDEST = 256
"""Most positions that are drawn of a sequence."""

MOMENTS = 24
KEPT_LOSSES = 12_000
"""Most moments of training at which losses are kept, and about so many losses in all of them."""

SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
OTHER_BYTES = [*range(33), *range(127, 161), 173]
"""Bytes that byte-level tokenizers write as U+0100 and so on, in this order."""


def choose_examples(lengths: Indices, count: int, positions: int) -> list[int]:
    """At most `count` examples of lengths that differ as much as they can, the shortest first.

    Args:
        lengths: (examples,) real tokens of each example.
        count: how many.
        positions: longer ones are left out, if four are left.
    """
    order = np.argsort(lengths, kind="stable")
    if (lengths <= positions).sum() >= min(4, len(lengths)):
        order = order[: (lengths <= positions).sum()]
    found = lengths[order]
    wanted = np.linspace(found[0], found[-1], min(count, len(order)))
    chosen: list[int] = []
    for place, length in enumerate(wanted):
        left = len(wanted) - place - 1  # so many must still find one
        first = chosen[-1] + 1 if chosen else 0
        near = int(np.searchsorted(found, length))
        chosen.append(min(max(near, first), len(order) - 1 - left))
    return order[chosen].tolist()


class Picture:
    """A micro-batch of the validation split.

    Args:
        examples: the split.
        indices: which of its examples.
        tokenizer: of the run.
        computes_on_padding: True for models whose layers don't skip padding.
    """

    def __init__(
        self,
        examples: MicroBatches,
        indices: list[int],
        tokenizer: Tokenizer,
        computes_on_padding: bool,
    ) -> None:
        self.batch: Batch = examples[StepPlan(0, [indices])][0]
        self.tokenizer = tokenizer
        self.texts: dict[int, str] = {}
        batch = self.batch
        left = batch.padding_side == "left"
        self.shown = slice(-WIDEST, None) if left else slice(WIDEST)
        rows = range(len(batch.lengths))
        self.is_shown = [shown for i in rows for shown in self._shown_targets(i)]
        self.drawing: dict[str, Any] = {
            "rows": [self._row(i) for i in rows],
            "left": left,
            "width": batch.input_ids.shape[1],
            "source_width": 0 if batch.source_ids is None else batch.source_ids.shape[1],
            "shown": WIDEST,
            "real": batch.real_count,
            "targets": batch.target_count,
            "positions": batch.padded_count,
            "computed": batch.padded_count if computes_on_padding else batch.unpadded_count,
        }

    def _labels(self, i: int) -> list[int]:
        return self.batch.labels[i][self.batch.is_real[i]].tolist()

    def _shown_targets(self, i: int) -> list[bool]:
        labels = self._labels(i)
        shown = range(len(labels))[self.shown]
        return [t in shown for t, label in enumerate(labels) if label != IGNORE_INDEX]

    def _target(self, i: int, label: int) -> str | None:
        if label == IGNORE_INDEX:
            return None
        return self.target(label if self.batch.classes is None else self.batch.classes[i].tolist())

    def _row(self, i: int) -> dict[str, Any]:
        batch, labels = self.batch, self._labels(i)
        inputs = batch.input_ids[i][batch.is_real[i]].tolist()
        row: dict[str, Any] = {
            "length": len(inputs),
            "inputs": [self.text(token) for token in inputs[self.shown]],
            "labels": [self._target(i, label) for label in labels[self.shown]],
        }
        if batch.source_ids is not None:
            ids, is_real = batch.first_side
            source = ids[i][is_real[i]].tolist()
            row["source"] = [self.text(token) for token in source[self.shown]]
            row["source_length"] = len(source)
        return row

    def text(self, id_: int) -> str:
        """What is shown of a token."""
        if id_ not in self.texts:
            self.texts[id_] = token_text(self.tokenizer, id_)
        return self.texts[id_]

    def target(self, id_: int | list[int]) -> str:
        """What is shown of what is predicted: a token, a class, or for each class 1 or 0."""
        if isinstance(id_, list):
            return ", ".join(compress(self.tokenizer.labels, id_)) or "∅"
        return self.tokenizer.targets.name(id_) if self.tokenizer.labels else self.text(id_)

    @torch.no_grad()
    def losses(self, module: TokenModule) -> dict[str, Any]:
        """The loss of each target token and, where it is wrong, what was predicted.

        Args:
            module: in evaluation mode.

        Returns:
            "loss" of each target that is shown, row by row; of those predicted "wrong", by number,
            text and probability of the prediction; "sum" of the losses of all M targets.
        """
        batch = self.batch.to(module.device)
        losses, wrong, total = [], {}, 0.0
        hidden, targets = module.hidden(batch), batch.targets
        are_shown = iter(self.is_shown)
        for part, expected in zip(hidden.split(AT_ONCE), targets.split(AT_ONCE), strict=True):
            logits = module.head(part).float()
            values, best = target_losses(logits, expected), most_likely(logits, expected)
            together = 1 if best.ndim == 1 else best.shape[1]  # a choice is so many decisions
            probability = (-together * target_losses(logits, best)).exp()
            total += float(values.double().sum())
            columns = (values.tolist(), best.tolist(), expected.tolist(), probability.tolist())
            for loss, token, label, probability in zip(*columns, strict=True):
                if not next(are_shown):
                    continue
                if token != label:
                    wrong[str(len(losses))] = (self.target(token), _short(probability))
                losses.append(_short(loss))
        return {"loss": losses, "wrong": wrong, "sum": _short(total, 6)}


def _short(value: float, digits: int = 3) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def thin_out(moments: list[dict[str, Any]], targets: int) -> list[dict[str, Any]]:
    """The same moments while they are few; else every second, the first and the last kept.

    Args:
        moments: the latest last.
        targets: losses of each.
    """
    if len(moments) <= max(4, min(MOMENTS, KEPT_LOSSES // max(1, targets))):
        return moments
    return [*moments[:-1:2], moments[-1]]


def token_text(tokenizer: Tokenizer, id_: int) -> str:
    """A token for the eye: white space and control characters as signs, half a character in hex."""
    engine = tokenizer.engine
    name = engine.id_to_token(id_)
    if name is None:
        return f"#{id_}"  # the model has more ids than the tokenizer
    if id_ in tokenizer.special:
        return name
    context = tokenizer.encode(["a"])[0][-1:]
    text = engine.decode([*context, id_])[len(engine.decode(context)) :]
    if "�" in text:
        text = _hex(name) if isinstance(engine.decoder, decoders.ByteLevel) else name
    return "".join(map(_visible, text)) or name


def _hex(name: str) -> str:
    codes = (OTHER_BYTES[ord(c) - 256] if ord(c) >= 256 else ord(c) for c in name)
    return " ".join(f"{code:02X}" for code in codes)


def _visible(character: str) -> str:
    if character in SIGNS:
        return SIGNS[character]
    category = unicodedata.category(character)
    if category == "Cc" and ord(character) < 32:
        return chr(0x2400 + ord(character))  # the picture of a control character
    if category == "Zs":
        return SIGNS[" "]
    if category[0] in "CZ":
        return f"U+{ord(character):04X}"
    if category[0] == "M":
        return "◌" + character  # it would stand on the character before it
    return character
