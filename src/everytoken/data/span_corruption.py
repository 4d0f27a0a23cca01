"""Span corruption: restore what was left out of a text (Raffel et al. 2020, section 3.1.4).

    text      Thank you for inviting me to your party last week .
    source    Thank you <extra_id_0> me to your party <extra_id_1> week . </s>
    target    <extra_id_0> for inviting <extra_id_1> last </s>

How many tokens and spans are left out follows from the length alone, as T5 counts them; which ones
is drawn anew for each epoch. As there, spans never touch, and a text begins with what is kept.
"""

import numpy as np

from everytoken.batch import IGNORE_INDEX
from everytoken.data.collate import Example, Ids
from everytoken.data.item import Item
from everytoken.data.objective import ExampleKey, Long, Record, Windowed, length_of
from everytoken.errors import UserError
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.tokenizer import Tokenizer


class SpanCorruption(Windowed):
    """Restore spans that sentinels stand for, from the text around them.

    Args:
        special: ids of the special tokens.
        vocabulary: V.
        tokenizer: knows the sentinels.
        window_tokens: most tokens of a text, before any is left out.
        stride_tokens: tokens from one window to the next, at most those of a window. If fewer,
            windows overlap: the overlap is read by the next, and nothing of it is left out.
        long: what becomes of longer texts.
        corrupted_fraction: share of the tokens that are left out, above 0 and below 1.
        mean_span: tokens of a span, on average, at least 1.
        sentinels: how many sentinels may be used.
        start_id: first input of the decoder; None for the tokenizer's begin token.

    Raises:
        UserError: fewer sentinels than a window has spans.
    """

    has_source = True

    def __init__(
        self,
        special: SpecialIds,
        vocabulary: int,
        tokenizer: Tokenizer,
        window_tokens: int,
        stride_tokens: int,
        long: Long,
        corrupted_fraction: float,
        mean_span: float,
        sentinels: int,
        start_id: int | None,
    ) -> None:
        super().__init__(special, vocabulary, window_tokens, stride_tokens, long)
        self.corrupted_fraction = corrupted_fraction
        self.mean_span = mean_span
        self.start_id = special.bos if start_id is None else start_id
        self.sentinels = tokenizer.sentinels[:sentinels]
        if not tokenizer.sentinels:
            raise UserError(
                "task=span_corruption needs sentinel tokens (<extra_id_0>, <extra_id_1>, …) and "
                "the tokenizer has none: use tokenizer=char, byte or bpe, or one of T5's kind"
            )
        if (most := self.counts(window_tokens)[1]) > len(self.sentinels):
            raise UserError(
                f"a window of task.objective.window_tokens={window_tokens} has {most} spans, and "
                f"there are {len(self.sentinels)} sentinel tokens: lower it, or raise "
                "task.objective.sentinels or mean_span"
            )

    def counts(self, length: int) -> tuple[int, int]:
        """How many tokens of so many are left out, and in how many spans."""
        if length < 2:
            return length, length
        dropped = min(max(1, round(length * self.corrupted_fraction)), length - 1)
        spans = max(1, round(dropped / self.mean_span))
        return dropped, min(spans, dropped, length - dropped)

    def is_too_long(self, record: Record) -> bool:
        """True if the text doesn't fit into a window."""
        return len(record["text"]) > self.window_tokens

    @property
    def marks(self) -> tuple[list[int], list[int]]:
        """None: both sides have ends of their own."""
        return [], []

    def real_count(self, item: Item) -> int:
        """Source tokens and decoder inputs: each token, and of each side sentinels and an end."""
        _, spans = self.counts(len(item.ids))
        return len(item.ids) + 2 * (spans + 1) + length_of(item.context_ids)

    def example(self, item: Item, key: ExampleKey) -> Example:
        """A source with sentinels, decoder inputs and, one position ahead, labels."""
        rng = np.random.default_rng(list(key))
        ids, (dropped, spans) = item.ids, self.counts(len(item.ids))
        kept = _segments(rng, len(ids) - dropped, spans)
        left_out = _segments(rng, dropped, spans)
        source: list[Ids | list[int]] = []
        target: list[Ids | list[int]] = [[self.start_id]]
        if item.context_ids is not None:
            source.append(item.context_ids)
        at = 0
        for sentinel, before, inside in zip(self.sentinels, kept, left_out, strict=False):
            source += [ids[at : at + before], [sentinel]]
            target += [[sentinel], ids[at + before : at + before + inside]]
            at += before + inside
        end = [self.special.eos]
        ids = np.concatenate([*target, end])
        return Example(ids[:-1], ids[1:], np.concatenate([*source, end]))

    def prompt(self, ids: list[int]) -> Example:
        """A text in which masks stand for spans, several in a row for one; the target's begin.

        Raises:
            UserError: more masks than there are sentinels.
        """
        mask, source, spans = self.special.mask, list[int](), 0
        for before, id_ in zip([None, *ids], ids, strict=False):
            if mask is None or id_ != mask:
                source.append(id_)
            elif before != mask:
                if spans == len(self.sentinels):
                    raise UserError(
                        f"a line can have {spans} masks, as many as there are sentinels"
                    )
                source.append(self.sentinels[spans])
                spans += 1
        return Example(
            np.array([self.start_id]),
            np.array([IGNORE_INDEX]),
            np.array([*source, self.special.eos]),
        )

    def filled(self, prompt: Example, answer: list[int]) -> list[int]:
        """The ids of a prompt's text with what an answer has for each of its sentinels."""
        assert prompt.source_ids is not None
        spans: dict[int, list[int]] = {}
        span: list[int] = []
        for id_ in answer:
            if id_ in self.sentinels:
                span = spans.setdefault(id_, [])
            else:
                span.append(id_)
        return [t for id_ in prompt.source_ids.tolist() for t in spans.get(id_, [id_])]


def _segments(rng: np.random.Generator, total: int, count: int) -> Ids:
    """(count,) sizes that add up to `total`, each at least 1 if that is enough; uniformly drawn."""
    if total < count or not count:
        return np.zeros(count, dtype=np.int64)
    borders = np.sort(rng.permutation(total - 1)[: count - 1]) + 1
    return np.diff(borders, prepend=0, append=total)
