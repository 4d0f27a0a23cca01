"""What is going to be trained on: logged in a few lines before training, and kept as data.json."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table

from everytoken.corpora.splits import in_words
from everytoken.data.counts import Counts
from everytoken.data.datamodule import MicroBatches, TokenDataModule
from everytoken.data.objective import Long
from everytoken.data.order import WINDOW, Indices

BARS = "▁▂▃▄▅▆▇█"
BINS = 20
PERCENTILES = (1, 10, 50, 90, 99)

LOOKED_AT = 2_000
"""Examples from which fill is estimated."""

EXAMPLE = 60
"""Characters of a text that are shown."""

JOINED = re.compile(r"\s*[|;,/+&]\s*")
"""What may stand between several labels in one."""

SHOWN = 5
"""Labels that a warning names."""

UNKNOWN_SHARE = 0.01
CHANGED_SHARE = 0.01
DUPLICATE_SHARE = 0.1
"""From these on the reader is warned."""


@dataclass(frozen=True)
class SplitReport:
    """One split."""

    examples: int
    """Sequences (or pairs of them) to train or evaluate on."""
    real_tokens: int
    """Those of all examples, special tokens and sources included."""
    longest: int
    """Real tokens of the longest example."""
    percentiles: dict[int, int]
    """Real tokens of an example; the largest of so many per cent of the examples."""
    histogram: list[int]
    """Examples by length, in parts of equal width from 0 to `longest`."""
    counts: Counts
    """Of the texts that they are made of."""

    @classmethod
    def of(cls, split: MicroBatches, counts: Counts) -> "SplitReport":
        """Measure."""
        longest = int(split.lengths.max())
        of_length = _of_each_length(split.lengths, longest)
        lengths, up_to = np.arange(longest + 1), np.cumsum(of_length)
        span = (0.5, longest + 0.5)
        histogram, _ = np.histogram(lengths, min(BINS, longest), span, weights=of_length)
        return cls(
            examples=len(split),
            real_tokens=int(of_length @ lengths),
            longest=longest,
            percentiles={
                p: int(np.searchsorted(up_to, -(-len(split) * p // 100))) for p in PERCENTILES
            },
            histogram=histogram.tolist(),
            counts=counts,
        )

    @property
    def unknown_share(self) -> float:
        """Unknown tokens / tokens of the texts."""
        return self.counts.unknown / max(1, self.counts.tokens)

    @property
    def lost(self) -> str:
        """Tokens of texts that are in no example, and tags that are lost with them, in words."""
        tags = f", {self.counts.lost_labels:,} tags," if self.counts.lost_labels else ""
        return f"{self.counts.lost / max(1, self.counts.tokens):.1%}{tags}"

    def warnings(self, name: str) -> Iterator[str]:
        """What is odd."""
        counts = self.counts
        if self.unknown_share > UNKNOWN_SHARE:
            yield (
                f"{self.unknown_share:.1%} of the {name} tokens are unknown to the tokenizer: "
                "tokenizer=byte and bpe know all text"
            )
        if counts.changed > CHANGED_SHARE and not counts.labels:
            before, after = (f"{text[:EXAMPLE]!r}" for text in counts.changed_example)
            yield (
                f"decode(encode(text)) differs for {counts.changed:.0%} of the {name} texts, e.g. "
                f"{before} comes back as {after}: nothing that is generated can equal such a text"
            )
        if counts.unlearned:
            yield (
                f"{counts.unlearned:,} of {counts.records:,} {name} examples have nothing to "
                "learn, or nothing that fits in: they are left out"
            )
        if counts.ends_inside:
            yield (
                f"{counts.ends_inside:,} tokens inside of the {name} documents are the tokenizer's "
                f"end (id {counts.end_id}), as if several were one: data.end_id={counts.end_id} "
                "divides them"
            )
        if counts.wordless:
            yield (
                f"{counts.wordless:,} of {counts.records:,} {name} examples have a text for which "
                "the tokenizer has no token, though it isn't blank: it is learned as an empty one"
            )
        yield from self._label_warnings(name)
        if counts.records == 1:
            yield f"the {name} split is one single text"
        elif counts.duplicates == counts.records - 1:
            yield f"all {counts.records:,} {name} texts are the same"
        elif counts.duplicates > DUPLICATE_SHARE * counts.records:
            share = counts.duplicates / counts.records
            yield f"{share:.0%} of the {name} texts repeat an earlier one: each counts again"

    def _label_warnings(self, name: str) -> Iterator[str]:
        counts = self.counts
        once = [label for label, count in counts.labels.items() if count == 1]
        if once and name == "train":
            more = f" and {len(once) - SHOWN} more" if len(once) > SHOWN else ""
            yield (
                f"of the {len(counts.labels)} labels {len(once)} stand only once in train "
                f"({', '.join(once[:SHOWN])}{more}): misspelled, or too rare to be learned"
            )
        spelled: dict[str, list[str]] = {}
        for label in counts.labels:
            spelled.setdefault(" ".join(label.casefold().split()), []).append(label)
        alike = [" and ".join(map(repr, same)) for same in spelled.values() if len(same) > 1]
        if alike and name == "train":
            yield (
                f"the labels {', '.join(alike[:SHOWN])} differ by capitals or spaces only, and "
                "count as different ones: write them alike if they are the same"
            )
        known = {*counts.labels}
        several = [n for n in counts.labels if JOINED.search(n) and {*JOINED.split(n)} <= known]
        # Tags, of which there are more than texts, may well be of two kinds.
        if several and name == "train" and sum(counts.labels.values()) <= counts.records:
            yield (
                f"the labels {', '.join(map(repr, several[:SHOWN]))} look like several each: "
                "data.label_separator says what stands between them, for "
                "task=multi_label_classification"
            )
        numbers = [label for label in counts.labels if label.isdecimal()]
        words = [label for label in counts.labels if not label.isdecimal()]
        if numbers and words and not counts.begun and name == "train":
            yield (
                f"the {name} labels are numbers ({', '.join(numbers[:SHOWN])}) and words "
                f"({', '.join(words[:SHOWN])}) mixed: is each a class?"
            )
        if counts.contradictory and counts.labels:
            yield (
                f"{counts.contradictory:,} {name} texts have another label than when they were "
                "there before: no model can be right about both"
            )
        if counts.unbegun and counts.begun:
            yield (
                f"{counts.unbegun:,} of the {name} tags continue an entity that hasn't begun "
                f"(first {counts.unbegun_at}), {counts.begun:,} begin one: they count as "
                "beginnings, as conlleval has it"
            )


@dataclass(frozen=True)
class DataReport:
    """All splits; prints itself, but for its warnings."""

    splits: dict[str, SplitReport]
    long: Long
    """What became of texts that are too long."""
    fill: float
    """Real tokens / tokens computed on, in the first steps of training."""
    padded_fill: float
    """The same, if micro-batches were as many, but drawn at random and padded."""
    new_tokens: list[str]
    """What the tokenizer's file lacks, and a config beside it names."""
    passes: dict[str, float]
    """How often an epoch goes through each corpus of a mix."""

    @classmethod
    def of(cls, data: TokenDataModule, computes_on_padding: bool) -> "DataReport":
        """Measure data, for a model that computes on padding or doesn't."""
        splits = {n: SplitReport.of(split, data.counts[n]) for n, split in data.splits.items()}
        new_tokens = list(data.tokenizer.added)
        mixed = data.mixed.passes if data.mixed else []
        passes = dict(zip((data.mixture or {}).get("weights", ()), mixed, strict=True))
        filled = fill(data, computes_on_padding)
        return cls(splits, data.objective.long, *filled, new_tokens, passes)

    def as_json(self) -> dict[str, Any]:
        """For programs: plain values."""
        return {**asdict(self), "warnings": self.warnings()}

    def warnings(self) -> list[str]:
        """What is odd, a line each."""
        lines = [line for name, split in self.splits.items() for line in split.warnings(name)]
        if self.new_tokens:
            lines.append(
                f"{', '.join(self.new_tokens)} are new tokens: tokenizer_config.json names them, "
                "and the tokenizer.json beside it has none such; if they are of two tokenizers, "
                "give each a folder of its own"
            )
        return lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._table()
        name, split = next(iter(self.splits.items()))
        known = ", ".join(f"{p}% {split.percentiles[p]:,}" for p in (1, 50, 99))
        yield f"lengths of {name} ▕{bars(split.histogram)}▏ {known}, longest {split.longest:,}"
        yield f"fill {self.fill:.2f}; random batches, padded, would have {self.padded_fill:.2f}"
        if self.passes:
            mixed = ", ".join(f"{name} {n:.3g} times" for name, n in self.passes.items())
            yield f"an epoch goes through {mixed}"
        for name, split in self.splits.items():
            if split.counts.dropped:
                counts = split.counts
                yield f"left out of {name}: {in_words(counts.dropped, counts.dropped_at)}"
        if any(split.counts.lost for split in self.splits.values()):
            shares = (f"{split.lost} of {name}" for name, split in self.splits.items())
            yield f"task.objective.long={self.long} leaves tokens out: {', '.join(shares)}"

    def _table(self) -> RenderableType:
        titles = ["data", "examples", "real tokens", "unknown", "repeated", "too long"]
        table = Table(show_edge=False, pad_edge=False)
        for title in titles:
            table.add_column(title, justify="left" if title == "data" else "right", no_wrap=True)
        for name, split in self.splits.items():
            counts = split.counts
            table.add_row(
                name,
                f"{split.examples:,}",
                f"{split.real_tokens:,}",
                f"{split.unknown_share:.2%}" if counts.unknown else "0",
                f"{counts.duplicates:,}",
                self._too_long(counts),
            )
        return table

    def _too_long(self, counts: Counts) -> str:
        if not counts.too_long:
            return "0"
        if self.long == "windows":
            return f"{counts.too_long:,} of {counts.records:,} in windows"
        is_cut = self.long.startswith("truncate")
        return f"{counts.too_long:,} {'truncated' if is_cut else 'dropped'}"


def _of_each_length(lengths: Indices, longest: int) -> Indices:
    """(longest + 1,) how many examples have each length; in parts, since they may be very many."""
    counts = np.zeros(longest + 1, np.int64)
    for begin in range(0, len(lengths), WINDOW):
        counts += np.bincount(lengths[begin : begin + WINDOW], minlength=longest + 1)
    return counts


def fill(data: TokenDataModule, computes_on_padding: bool) -> tuple[float, float]:
    """Of the first training steps as they are, and in random micro-batches that are padded."""
    train = data.splits["train"]
    real, computed, padded, seen = 0, 0, 0, 0
    for plan in data.train_steps():
        if plan.epoch or seen >= LOOKED_AT:
            break
        micro_batches = train[plan]
        real += sum(b.real_count for b in micro_batches)
        computed += sum(
            b.padded_count if computes_on_padding else b.unpadded_count for b in micro_batches
        )
        order = np.argsort(np.concatenate(plan.micro_batches))  # sorted by length until here
        for side in ("lengths", "source_lengths"):
            if (found := [getattr(b, side) for b in micro_batches])[0] is not None:
                parts = np.array_split(np.concatenate(found)[order], len(micro_batches))
                padded += sum(len(part) * int(part.max()) for part in parts if len(part))
        seen += len(order)
    return real / computed, real / padded


def bars(histogram: list[int]) -> str:
    """One bar for each count; none where there is nothing."""
    highest = max(histogram)
    return "".join(BARS[-(-n * len(BARS) // highest) - 1] if n else " " for n in histogram)
