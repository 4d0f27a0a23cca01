"""What evaluation compares with: the texts of the corpus as they are written.

Tokens can't say it. A tokenizer may change letters, and has no token for some: what is decoded from
the targets' ids isn't what somebody else compares with.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from everytoken.batch import IGNORE_INDEX
from everytoken.data.collate import Example
from everytoken.data.item import Item, Reference
from everytoken.data.objective import ExampleKey, Objective
from everytoken.tokenizer.tokenizer import Tokenizer


def referenced(
    items: Sequence[Item],
    texts: Sequence[str],
    ids: Sequence[list[int]],
    record: int,
    objective: Objective,
    tokenizer: Tokenizer,
) -> list[Item]:
    """The items of a record, each with its `Reference`.

    Args:
        items: as the objective cut them; if they have references, these stay.
        texts: of the record, field by field; the last one is the answer.
        ids: tokens of each.
        record: its number.
        objective: says where generation starts.
        tokenizer: what made the ids.
    """
    if all(item.reference for item in items):
        own = [item.reference for item in items if item.reference]
        return [
            item._replace(reference=reference._replace(record=record))
            for item, reference in zip(items, own, strict=True)
        ]
    examples = [objective.example(item, ExampleKey(0, 0, record)) for item in items]
    targets = [token for e in examples for token in e.labels.tolist() if token != IGNORE_INDEX]
    sizes = [target_bytes(texts, ids, targets, tokenizer), *[0] * len(items)]
    if len(ids) == 1 and (learned := getattr(objective, "learned", None)):
        bytes_after = _bytes_after(texts[0], len(ids[0]), tokenizer)
        borders = [(part.start, part.stop) for part in learned(items, examples)]
        found_bytes = bytes_after[np.minimum(borders, len(ids[0]))]
        sizes = (found_bytes[:, 1] - found_bytes[:, 0]).tolist()
    found = []
    for item, example, size in zip(items, examples, sizes, strict=False):
        reference = Reference.of(example, record)._replace(byte_count=size)
        reference = _after_prompt(reference, example, ids, objective)
        if len(items) == 1 and _is_answer(example, reference, ids, objective, tokenizer):
            reference = reference._replace(text=texts[-1])
        found.append(item._replace(reference=reference))
    return found


def windows_referenced(
    items: Iterable[Item], size: int, tokens: int, record: int, objective: Objective
) -> Iterator[Item]:
    """The items of a long text, one after the other, each with its `Reference`.

    Args:
        items: as the objective cut them.
        size: of the text, in UTF-8 bytes; each item has its share by its targets.
        tokens: of the text.
        record: its number.
        objective: makes examples of items.
    """
    learned = before = 0
    for item in items:
        example = objective.example(item, ExampleKey(0, 0, record))
        learned += int((example.labels != IGNORE_INDEX).sum())
        told = size * min(learned, tokens) // max(1, tokens)
        yield item._replace(
            reference=Reference.of(example, record)._replace(byte_count=told - before)
        )
        before = told


def _after_prompt(
    reference: Reference, example: Example, ids: Sequence[list[int]], objective: Objective
) -> Reference:
    """The same where the prompt is learned too: the answer begins after it."""
    if len(ids) == 1 or example.source_ids is not None or not hasattr(objective, "prompt"):
        return reference
    prompt = objective.prompt(ids[0]).input_ids
    count = len(prompt)
    if count <= reference.prompt_tokens or not np.array_equal(prompt, example.input_ids[:count]):
        return reference
    answer = int((example.labels[count - 1 :] != IGNORE_INDEX).sum())
    return reference._replace(prompt_tokens=count, answer_tokens=answer) if answer else reference


def _is_answer(
    example: Example,
    reference: Reference,
    ids: Sequence[list[int]],
    objective: Objective,
    tokenizer: Tokenizer,
) -> bool:
    """True if the targets after the prompt are the record's last text, or its beginning."""
    special = {tokenizer.special.pad, tokenizer.special.bos, tokenizer.special.eos, IGNORE_INDEX}
    targets = example.labels[reference.prompt_tokens - 1 :].tolist()
    answer = [token for token in targets if token not in special]
    whole = len(answer) == len(ids[-1]) or objective.long == "truncate"
    return whole and answer == ids[-1][: len(answer)]


def target_bytes(
    texts: Sequence[str], ids: Sequence[list[int]], targets: list[int], tokenizer: Tokenizer
) -> int:
    """UTF-8 bytes of those texts whose tokens are among the targets.

    Of a text that is cut off, those of the part that its first tokens stand for.

    Args:
        texts: of a record, field by field.
        ids: tokens of each.
        targets: of all its examples, in order.
        tokenizer: what made the ids.
    """
    rest, width = _packed(targets), _packed([0]).__len__()
    total = 0
    for text, own in zip(reversed(texts), map(_packed, reversed(ids)), strict=True):
        at = rest.rfind(own)
        while at > 0 and at % width:  # not where a token begins
            at = rest.rfind(own, 0, at + len(own) - 1)
        if at >= 0:
            total += len(text.encode())
            rest = rest[:at]
            continue
        lengths = range(min(len(own), len(rest)), 0, -width)
        kept = next((size for size in lengths if rest.endswith(own[:size])), 0)
        if kept:
            total += int(_bytes_after(text, len(own) // width, tokenizer)[kept // width])
        rest = rest[: len(rest) - kept]
    return total


def _packed(ids: list[int]) -> bytes:
    return np.array(ids, dtype=np.int64).tobytes()


def _bytes_after(text: str, count: int, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """(count + 1,) UTF-8 bytes of a text that its first tokens stand for: none, one, …"""
    sizes = np.cumsum([0, *(len(letter.encode()) for letter in text)])
    encoding = tokenizer.engine.encode(text, add_special_tokens=False)
    if len(encoding) != count:  # it was encoded in pieces
        return np.linspace(0, sizes[-1], count + 1).round().astype(np.int64)
    return sizes[[0, *(end for _, end in encoding.offsets)]]
