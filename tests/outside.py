"""Models written outside the package, as a fork has them: one is right, the others aren't."""

import torch
from torch import Tensor, nn

from everytoken.batch import Batch


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


class ReadsPaddingBackwards(LSTM):
    """A classic: the backward direction starts in the padding."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__(vocabulary, width)
        self.lstm = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)


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
