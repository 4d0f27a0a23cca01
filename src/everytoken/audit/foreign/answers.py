"""What of an example is to be learned, by the texts that it was made of; and what is."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

WORDS = ("tokens", "words")
TAGS = ("ner_tags", "pos_tags", "chunk_tags", "tags")
"""What columns of texts with a tag for each word are called."""


def answers_of(example: Any) -> list[str]:
    """What a chat or a prompt is answered with, as texts."""
    if not isinstance(example, Mapping):
        return []
    found = example.get("completion")
    if isinstance(found, str):
        return [found]
    talk = found if found is not None else example.get("messages") or []
    return [str(turn["content"]) for turn in talk if turn.get("role") == "assistant"]


def mistake_in_answers(
    inputs: Tensor, ids: Tensor, learned: Tensor, answers: Sequence[str], tokenizer: Any
) -> str | None:
    """What is wrong with the parts that are learned, in words; "" for nothing.

    None if the answers aren't what stands in the example: the template writes others, or they
    are cut off.

    Args:
        inputs: (T,) what is read.
        ids, learned: (T,) labels, and which of them are targets.
        answers: whole.
        tokenizer: of the ids.
    """
    runs = _runs(ids, learned)
    shown = _compact(tokenizer.decode(inputs.tolist(), skip_special_tokens=False))
    kept = [answer for answer in answers if _compact(answer) in shown]
    if len(kept) < len(answers):
        after = answers[len(kept)]
        if kept != [*answers[: len(kept)]] or not _is_cut(ids, learned, runs, after, tokenizer):
            return None
        runs = runs[: len(kept)] if len(runs) > len(kept) else runs
    if len(runs) != len(kept):
        return f"{len(runs)} parts are learned of {len(kept)} answers"
    for run, answer in zip(runs, kept, strict=True):
        text = tokenizer.decode(run, skip_special_tokens=False)
        is_exact = _round_trip(answer, tokenizer) == answer
        found, wanted = (one.strip() if is_exact else _compact(one) for one in (text, answer))
        if not found.startswith(wanted):
            return f"{text!r:.50} is learned, and the answer is {answer!r:.50}"
        if found == wanted and run[-1] != tokenizer.eos_token_id:
            return f"the end of {text!r:.50} isn't learned"
    return ""


def _is_cut(
    ids: Tensor, learned: Tensor, runs: list[list[int]], answer: str, tokenizer: Any
) -> bool:
    """True if a sequence ends before an answer, or in the middle of it."""
    if not learned[-1] and not learned[-2:].any():
        return True
    return bool(runs) and _compact(answer).startswith(_compact(tokenizer.decode(runs[-1])))


def _compact(text: str) -> str:
    """Without spaces, some of which get lost in tokens."""
    return "".join(text.split())


def _round_trip(text: str, tokenizer: Any) -> str | None:
    """A text as its tokens say it; None if the tokenizer can't be asked."""
    with suppress(Exception):
        return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])
    return None


def _runs(ids: Tensor, learned: Tensor) -> list[list[int]]:
    """The unbroken runs of targets."""
    runs: list[list[int]] = [[]]
    for id_, is_target in zip(ids.tolist(), learned.tolist(), strict=True):
        if is_target:
            runs[-1].append(id_)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def tagged(example: Any, names: Mapping[str, Any]) -> tuple[list[str], list[int]] | None:
    """The words of an example and the number of each one's tag; None if it has none.

    Args:
        example: of the training data.
        names: of the columns "words" and "tags", where they aren't the usual.
    """
    if not isinstance(example, Mapping):
        return None
    words = _column(example, [names["words"]] if "words" in names else WORDS)
    tags = _column(example, [names["tags"]] if "tags" in names else TAGS)
    if words is None or tags is None or len(words) != len(tags):
        return None
    if not all(isinstance(word, str) for word in words):
        return None
    return (words, tags) if all(isinstance(tag, int) for tag in tags) else None


def _column(example: Mapping[str, Any], names: Iterable[str]) -> list[Any] | None:
    found = next((example[name] for name in names if example.get(name) is not None), None)
    return None if found is None else [*found]


def mistake_in_tags(
    inputs: Tensor, labels: Tensor, learned: Tensor, example: tuple[list[str], list[int]], of: Any
) -> str | None:
    """Where a word's first token hasn't its tag, in words; "" nowhere, None if that can't be told.

    Args:
        inputs, labels, learned: (T,) ids, tags, and which of them are targets.
        example: words, and their tags.
        of: the tokenizer.
    """
    words, tags = example
    try:
        encoded = of(words, is_split_into_words=True)
        numbers = encoded.word_ids()
    except Exception:  # another kind of tokenizer, or a slow one
        return None
    count = len(inputs)
    if encoded["input_ids"][: count - 1] != inputs.tolist()[: count - 1]:
        return None  # made in another way; the last may end what was cut off
    before = None
    for place, number in enumerate(numbers[: count - 1]):
        if number is None and learned[place]:
            return f"token {place + 1}, of no word, has a tag"
        if number is not None and number != before:
            tag = int(labels[place]) if learned[place] else "none"
            if tag != tags[number]:
                return f"the tag of {words[number]!r} is {tag}, and should be {tags[number]}"
        before = number
    return ""
