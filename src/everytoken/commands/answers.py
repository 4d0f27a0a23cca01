"""What a trained model answers to lines of text."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch

from everytoken.batch import IGNORE_INDEX
from everytoken.corpora.conversations import Conversation
from everytoken.data.collate import Example, collate
from everytoken.data.objective import Objective
from everytoken.data.question import Question
from everytoken.decoding.continuation import check_finite
from everytoken.decoding.generate import stream
from everytoken.decoding.sampling import OneByOne
from everytoken.errors import UserError
from everytoken.runtime.console import warn
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
        longest: real tokens of the longest example of training: the first longer line is warned
            of. None for no warning.

    Raises:
        UserError: an objective without prompts. In use: logits that are not finite, a model that
            can't go on with a text.
    """

    def __init__(
        self,
        module: TokenModule,
        objective: Objective,
        tokenizer: Tokenizer,
        max_new_tokens: int,
        longest: int | None = None,
    ) -> None:
        self.module = module
        self.objective = objective
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.longest = longest
        self.fills = fills(objective, tokenizer)
        self.restores = hasattr(objective, "filled")
        """True if a mask of a line stands for a span."""
        self.answered = 0
        """Lines so far."""

    def prompt(self, text: str | Conversation, key: int) -> Example | None:
        """Where the answer to a line starts; None for a blank source, which has nothing to say.

        Args:
            text: the line; "<mask>" is a mask only where masks are filled in, and of a model that
                tells classes it is what the objective reads in it. Or a conversation, for a model
                that was trained on such, to which a line is a user's first message.
            key: its number.
        """
        if question := getattr(self.objective, "question", None):
            if not str(text).strip():
                return None
            found: Question = question(text, f"line {key + 1}")
            self._compare(len(found.input_ids) - 1, key)
            return found
        if ask := getattr(self.objective, "ask", None):
            if isinstance(text, str):
                if not text.strip():
                    return None
                text = Conversation([{"role": "user", "content": text}])
            asked: Example = ask(text, f"line {key + 1}")
            self._compare(len(asked.input_ids), key)
            return asked
        assert isinstance(text, str)
        if self.restores and self.tokenizer.special.mask is None:
            raise UserError(
                "a mask stands for each span that is to be filled in, and the run's tokenizer has "
                "none: train with one, as tokenizer.mask=<extra_id_0>"
            )
        if self.fills or self.restores:
            ids = self.tokenizer.encode_with_masks(text)
        else:
            ids = self.tokenizer.encode([text])[0]
        is_of_pairs = getattr(self.objective, "is_of_pairs", self.objective.has_source)
        if is_of_pairs and not (ids and text.strip()):
            return None
        self._compare(len(ids), key)
        return self.objective.prompt(ids)

    def _compare(self, tokens: int, key: int) -> None:
        if self.longest is not None and tokens >= self.longest:  # begin or end come to it
            warn(
                f"line {key + 1} has {tokens} tokens, and no example of training had more than "
                f"{self.longest}: expect little of what is answered to lines as long as that"
            )
            self.longest = None  # once is enough

    @torch.inference_mode()
    def answer(self, prompts: list[Example], keys: list[int]) -> list[str]:
        """The answers to some prompts; `keys` are the numbers of their lines."""
        batch = collate(prompts, self.tokenizer.special.pad, indices=keys)
        batch = batch.to(self.module.device)
        if not self.fills:
            new = self.module.generate(batch, self.max_new_tokens)
            if self.restores:
                return [self._restored(*pair) for pair in zip(prompts, new, strict=True)]
            return [self._text(*pair) for pair in zip(prompts, new, strict=True)]
        logits = self.module.head(self.module.hidden(batch))
        check_finite(logits)
        logits = logits.double()
        chances = logits.softmax(-1) if batch.classes is None else logits.sigmoid()
        parts = chances.cpu().split(batch.is_target.sum(1).tolist())
        asked = [prompt for prompt in prompts if isinstance(prompt, Question)]
        if asked:
            return [one.tell(part.numpy()) for one, part in zip(asked, parts, strict=True)]
        filled = batch.input_ids.clone()
        filled[batch.is_target] = logits.argmax(-1)
        rows = zip(prompts, filled.tolist(), strict=True)
        return [self._filled_text(prompt, row[: len(prompt.input_ids)]) for prompt, row in rows]

    def answers(self, texts: Iterable[str | Conversation], batch_size: int) -> Iterator[str]:
        """The answers in the order of the texts, which are read as they are needed."""
        at_once = batch_size * BATCHES_AT_ONCE if batch_size > 1 else 1
        numbered = enumerate(texts)
        while chunk := [(key, self.prompt(text, key)) for key, text in islice(numbered, at_once)]:
            found = {key: "" for key, prompt in chunk if prompt is None}
            asked = [(key, prompt) for key, prompt in chunk if prompt is not None]
            asked.sort(key=lambda line: _size(line[1]))
            self.answered += len(found)
            for first in range(0, len(asked), batch_size):
                keys, prompts = zip(*asked[first : first + batch_size], strict=True)
                found.update(zip(keys, self.answer([*prompts], [*keys]), strict=True))
                self.answered += len(keys)
            yield from (found[key] for key in sorted(found))

    def stream(self, text: str | Conversation, key: int) -> Iterator[str]:
        """The answer to one line, in pieces, as soon as they are known.

        Raises:
            UserError: the answer is only known as a whole.
        """
        decoding = self.module.decoding
        if self.fills or self.restores or not isinstance(decoding, OneByOne):
            what = "a model that fills in spans" if self.restores else type(decoding).__name__
            if self.fills:
                what = generates_nothing(self.tokenizer)
            raise UserError(
                f"stream=true doesn't go with {what}, whose answer is only known as a whole: "
                "set stream=false"
            )
        special = self.tokenizer.special
        if (prompt := self.prompt(text, key)) is None:
            return
        ids: list[int] = []
        shown = ""
        for token in stream(
            self.module.model,
            self.module.head,
            collate([prompt], special.pad, indices=[key]).to(self.module.device),
            decoding,
            end_id=special.eos,
            max_new_tokens=self.max_new_tokens,
        ):
            ids.append(token)
            answer = self._text(prompt, ids)
            if not answer.endswith("\N{REPLACEMENT CHARACTER}"):  # half of a character's bytes
                yield answer[len(shown) :]
                shown = answer
        yield self._text(prompt, ids)[len(shown) :]

    def _text(self, prompt: Example, ids: list[int]) -> str:
        if hasattr(self.objective, "ask"):  # what is said in answer is a text of its own
            return self.tokenizer.decode(ids)
        return self.tokenizer.continuation(ids, prompt.input_ids.tolist())

    def _restored(self, prompt: Example, ids: list[int]) -> str:
        restore = getattr(self.objective, "filled")  # noqa: B009 (few objectives have it)
        return self.tokenizer.decode(restore(prompt, ids))

    def _filled_text(self, prompt: Example, ids: list[int]) -> str:
        places = np.flatnonzero(prompt.labels != IGNORE_INDEX)
        return self.tokenizer.decode_filled(ids, places.tolist())


def fills(objective: Objective, tokenizer: Tokenizer) -> bool:
    """True if an objective has positions of a line filled in, False if it has it continued.

    Raises:
        UserError: it says neither.
    """
    if not hasattr(objective, "prompt"):
        raise UserError(
            f"{type(objective).__name__} has no prompt(ids), which says where the answer to a text "
            "starts: no line can be answered"
        )
    special = tokenizer.special
    example = objective.prompt([special.eos if special.mask is None else special.mask])
    return bool((example.labels != IGNORE_INDEX).any())


def generates_nothing(tokenizer: Tokenizer) -> str:
    """What a model is that `fills`, in words."""
    return "a model that tells classes" if tokenizer.labels else "a masked model"


def _size(prompt: Example) -> int:
    """How much of a prompt there is to read."""
    return len(prompt.input_ids if prompt.source_ids is None else prompt.source_ids)
