"""Models and a corpus written outside the package, as a fork has them; some models are wrong."""

import random

import torch
from torch import Tensor, nn

from everytoken.batch import Batch
from everytoken.data.objective import CausalLM
from everytoken.model.tensor_parallel import SplitInputs
from everytoken.model.transformer import Transformer


class LSTM(nn.Module):
    """Knows nothing of the package but `Batch`."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, batch: Batch) -> Tensor:
        if batch.padding_side != "right":
            raise ValueError("set data.padding_side=right")
        hidden, _ = self.lstm(self.embedding(batch.input_ids))
        return hidden[batch.is_target]


class TorchEncoder(LSTM):
    """torch's own encoder, as tutorials use it: for masked_lm."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True)
        self.lstm = nn.TransformerEncoder(layer, 2)

    def forward(self, batch: Batch) -> Tensor:
        if batch.padding_side != "right":
            raise ValueError("set data.padding_side=right")
        place = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
        padding = place >= batch.lengths[:, None]
        hidden = self.lstm(self.embedding(batch.input_ids), src_key_padding_mask=padding)
        return hidden[batch.is_target]


class FailsInEvaluation(LSTM):
    def forward(self, batch: Batch) -> Tensor:
        if not self.training:
            raise RuntimeError("no evaluation today")
        return super().forward(batch)


class OwnCausalLM(CausalLM):
    """An objective derived from ours."""


class ReadsPaddingBackwards(LSTM):
    """A classic: the backward direction starts in the padding."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__(vocabulary, width)
        self.lstm = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)


class BreaksOnTheLeft(LSTM):
    """Fails on left padding, and doesn't mean to."""

    def forward(self, batch: Batch) -> Tensor:
        if batch.padding_side == "left":
            raise ValueError("shapes don't match")
        return super().forward(batch)


class WrongShape(LSTM):
    def forward(self, batch: Batch) -> Tensor:
        hidden, _ = self.lstm(self.embedding(batch.input_ids))
        return hidden


class SmallHead(LSTM):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__(vocabulary, width)
        self.head = nn.Linear(width, vocabulary - 1)


class GivesNan(LSTM):
    def forward(self, batch: Batch) -> Tensor:
        return super().forward(batch) * torch.tensor(float("nan"))


class NoGradient(LSTM):
    def forward(self, batch: Batch) -> Tensor:
        return super().forward(batch).detach()

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__(vocabulary, width)
        self.head.requires_grad_(False)


class Positions(LSTM):
    """Learned positions, a table as long as the longest window; starts at zero in places."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__(vocabulary, width)
        del self.lstm
        self.positions = nn.Embedding(24, width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)

    def forward(self, batch: Batch) -> Tensor:
        ids, lengths = batch.input_ids, batch.lengths
        places = torch.arange(ids.shape[1]).expand_as(ids)
        if batch.padding_side == "left":
            places = (places - (ids.shape[1] - lengths)[:, None]).clamp(min=0)
        x = self.embedding(ids) + self.positions(places)
        known = x.masked_fill(~batch.is_real[..., None], 0.0).cumsum(1)
        return (x + self.out(known.tanh()))[batch.is_target]


class Binary:
    """Texts of two letters, one of them rare: a target often equals its neighbours."""

    fields = ("text",)

    def __init__(self, **_: object) -> None:
        pass

    def examples(self, split: str) -> list[dict[str, str]]:
        chance = random.Random(split)
        return [{"text": "".join(chance.choices("aaab", k=90))} for _ in range(40)]


class WrongWhenSplit(Transformer):
    """Gives something else where several ranks split its matrices."""

    def forward(self, batch: Batch) -> Tensor:
        is_split = any(isinstance(layer, SplitInputs) for layer in self.modules())
        return super().forward(batch) * (1.01 if is_split else 1.0)
