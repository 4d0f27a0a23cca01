"""The tokenized data that all contestants share: made once, read by each from one file.

Records are token ids, so that tokenizers differ in nothing; everytoken reads them as texts whose
words are ids.
"""

import gzip
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import models, pre_tokenizers

from everytoken.data.objective import Record
from everytoken.errors import UserError
from everytoken.tokenizer.learned import SPECIAL, SPECIAL_TOKENS, train_bpe
from everytoken.tokenizer.tokenizer import Tokenizer

SHORTEST, LONGEST = 20, 1000
"""Tokens of the made documents."""


@dataclass(frozen=True)
class Corpus:
    """Token ids without special tokens."""

    vocabulary: int
    """V, special tokens included."""
    train: list[Record]
    val: list[Record]

    def save(self, path: Path) -> None:
        """Write it for the contestants."""
        path.write_bytes(pickle.dumps(self))

    @staticmethod
    def load(path: str | Path) -> "Corpus":
        """Read what `save` wrote."""
        corpus = pickle.loads(Path(path).read_bytes())
        assert isinstance(corpus, Corpus)
        return corpus

    def lengths(self, field: str) -> NDArray:
        """(n,) what the model reads of a field: its tokens and an end, or a begin."""
        return np.array([len(record[field]) + 1 for record in self.train])

    @cached_property
    def tokens(self) -> int:
        """Real tokens of an epoch."""
        return sum(int(self.lengths(field).sum()) for field in self.train[0])


class Ids:
    """A corpus as everytoken's source of texts.

    Args:
        path: what `Corpus.save` wrote.
    """

    def __init__(self, path: str) -> None:
        self.corpus = Corpus.load(path)
        self.fields = tuple(self.corpus.train[0])

    def examples(self, split: str) -> list[dict[str, str]]:
        """Texts by field, ids being words."""
        records = {"train": self.corpus.train, "val": self.corpus.val, "test": self.corpus.val}
        return [
            {field: " ".join(map(str, ids)) for field, ids in record.items()}
            for record in records[split]
        ]


def id_tokenizer(vocabulary: int) -> Tokenizer:
    """Reads the texts of `Ids`: the word "17" is token 17."""
    words = [*SPECIAL_TOKENS, *map(str, range(len(SPECIAL_TOKENS), vocabulary))]
    table = {word: i for i, word in enumerate(words)}
    engine = tokenizers.Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(engine, SPECIAL)


def train_ids(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """`id_tokenizer`, as a choice of `tokenizer` that has nothing to learn."""
    return id_tokenizer(vocabulary)


def translations(folder: Path, vocabulary: int) -> Corpus:
    """English and German of Multi30k, in one byte-pair encoding of both.

    Raises:
        UserError: the folder lacks a file.
    """

    def read(split: str) -> list[tuple[str, str]]:
        sides = []
        for language in ("en", "de"):
            path = folder / f"{split}.lc.norm.tok.{language}.gz"
            if not path.is_file():
                raise UserError(f"{path} is missing: give --data the folder of Multi30k")
            sides.append(gzip.decompress(path.read_bytes()).decode("utf-8").splitlines())
        return list(zip(*sides, strict=True))

    train = read("train")
    tokenizer = train_bpe((text for pair in train for text in pair), vocabulary)

    def encode(pairs: list[tuple[str, str]]) -> list[Record]:
        source, target = (tokenizer.encode([*side]) for side in zip(*pairs, strict=True))
        return [{"source": s, "target": t} for s, t in zip(source, target, strict=True)]

    held_out = read("val") if (folder / "val.lc.norm.tok.en.gz").is_file() else train[:100]
    return Corpus(len(tokenizer), encode(train), encode(held_out))


def documents(
    count: int, vocabulary: int, seed: int = 1, shortest: int = SHORTEST, longest: int = LONGEST
) -> Corpus:
    """Made documents: the logarithm of the length is uniform, ids follow Zipf's law.

    So half of the documents have fewer than sqrt(shortest * longest) tokens, 141 by default, and
    the mean is 250. Ids are independent of each other: there is a unigram distribution to learn.
    """
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.uniform(np.log(shortest), np.log(longest + 1), count)).astype(int)
    words = np.arange(len(SPECIAL_TOKENS), vocabulary)
    weights = 1 / np.arange(1, len(words) + 1)
    ids = rng.choice(words, lengths.sum(), p=weights / weights.sum())
    records: list[Record] = [
        {"text": part.tolist()} for part in np.split(ids, np.cumsum(lengths)[:-1])
    ]
    return Corpus(vocabulary, records, records[:8])
