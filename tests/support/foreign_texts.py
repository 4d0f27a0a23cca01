"""Loops that learn texts: the answers of chats, and a tag for each word."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support.foreign import Net

SPECIAL = ("<pad>", "<user>", "</s>", "<assistant>", " ")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
IDS = {text: number for number, text in enumerate((*SPECIAL, *LETTERS))}
PAD, USER, EOS, ASSISTANT = range(4)


class Letters:
    """What the audit asks of a tokenizer of transformers; each letter is a token."""

    eos_token_id = EOS
    all_special_ids = (PAD, USER, EOS, ASSISTANT)

    def __call__(self, text: Any, **_: Any) -> Any:
        words = [text] if isinstance(text, str) else text
        ids = [IDS[letter] for word in words for letter in word]
        numbers = [number for number, word in enumerate(words) for _ in word]
        return Encoded(input_ids=ids, numbers=numbers)

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join((*SPECIAL, *LETTERS)[id_] for id_ in ids)


class Encoded(SimpleNamespace):
    """Ids, and the number of the word that each is of."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def word_ids(self) -> list[int]:
        return self.numbers


def words(generator: torch.Generator, count: int) -> list[str]:
    lengths = torch.randint(1, 5, (count,), generator=generator).tolist()
    return [
        "".join(LETTERS[i] for i in torch.randint(26, (n,), generator=generator)) for n in lengths
    ]


class Texts(ABC):
    """A loop over examples that have texts."""

    causal: bool

    def __init__(self, fault: str | None = None) -> None:
        self.fault = fault
        self.model = Net()
        self.tokenizer = Letters()
        generator = torch.Generator().manual_seed(0)
        self.examples = [self.example(generator, number) for number in range(24)]

    @abstractmethod
    def example(self, generator: torch.Generator, number: int) -> dict[str, Any]:
        """Texts."""

    @abstractmethod
    def encoded(self, example: dict[str, Any]) -> tuple[list[int], list[int]]:
        """Ids, and labels at the same places."""

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        pad = nn.utils.rnn.pad_sequence
        rows = [self.encoded(example) for example in examples]
        ids, labels = ([torch.tensor(row[i]) for row in rows] for i in range(2))
        return {
            "input_ids": pad(ids, batch_first=True, padding_value=PAD),
            "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad(labels, batch_first=True, padding_value=-100),
        }

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        logits = self.model(batch["input_ids"], batch["attention_mask"])
        labels = batch["labels"]
        if self.causal:  # labels stand where their tokens are
            logits, labels = logits[:, :-1], labels[:, 1:]
        return F.cross_entropy(logits.mT, labels)

    @property
    def given(self) -> dict[str, Any]:
        """What `audit` is given beside `step`."""
        return {
            "batches": self.examples,
            "collate": self.collate,
            "model": self.model,
            "tokenizer": self.tokenizer,
        }


class Chats(Texts):
    """Two questions and their answers, which are learned with their ends."""

    causal = True

    def example(self, generator: torch.Generator, number: int) -> dict[str, Any]:
        texts = [" ".join(words(generator, 2 + number % 3)) for _ in range(4)]
        roles = ("user", "assistant") * 2
        return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]}

    def encoded(self, example: dict[str, Any]) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        for turn in example["messages"]:
            text = turn["content"]
            if self.fault == "the template swallows a space":
                text = text.replace(" ", "", 1)
            said = [*self.tokenizer(text).input_ids, EOS]
            is_answer = turn["role"] == "assistant"
            ids += [ASSISTANT if is_answer else USER, *said]
            own = [*said] if is_answer else [-100] * len(said)
            if is_answer and self.fault == "a first answer token isn't":
                own[0] = -100
            if is_answer and self.fault == "the end isn't learned":
                own[-1] = -100
            begins = is_answer and self.fault == "a prompt token is learned"
            labels += [ASSISTANT if begins else -100, *own]
        return ids, labels


class Tags(Texts):
    """Words with a tag on the first letter of each."""

    causal = False

    def example(self, generator: torch.Generator, number: int) -> dict[str, Any]:
        some = words(generator, 3 + number % 5)
        return {"tokens": some, "ner_tags": [len(word) - 1 for word in some]}

    def encoded(self, example: dict[str, Any]) -> tuple[list[int], list[int]]:
        found = self.tokenizer(example["tokens"], is_split_into_words=True)
        numbers = found.word_ids()
        ends = numbers[1:] if self.fault == "the last token has the tag" else numbers[:-1]
        edges = [*ends, None] if self.fault == "the last token has the tag" else [None, *ends]
        pairs = zip(numbers, edges, strict=True)
        labels = [example["ner_tags"][own] if own != other else -100 for own, other in pairs]
        if self.fault == "tags are a token late":
            labels = [-100, *labels[:-1]]
        return found.input_ids, labels
