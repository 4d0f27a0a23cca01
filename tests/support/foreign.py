"""Training code that isn't ours, right and wrong: a small decoder in a bare loop, in Lightning."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

PAD, EOS, WORDS = 0, 2, 40


def sequences(count: int = 24, seed: int = 0) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 14, (count,), generator=generator).tolist()
    ids = [[*torch.randint(3, WORDS, (n,), generator=generator).tolist(), EOS] for n in lengths]
    return [{"ids": row, "answer": [0, 0] + [1] * (len(row) - 2)} for row in ids]


class Net(nn.Module):
    """ids (B, T), real (B, T) → logits (B, T, V)."""

    def __init__(self, fault: str | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fault = fault
        self.words = nn.Embedding(WORDS, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.head = nn.Linear(16, WORDS)
        self.dropout = nn.Dropout(0.5)
        if fault == "a layer is never used":
            self.idle = nn.Linear(16, 16)

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        hidden = self.words(ids)
        place = torch.arange(ids.shape[1])
        reach = 1 if self.fault == "the causal mask is off by one" else 0
        seen = place[:, None] + reach >= place
        seen = seen & real[:, None, :].bool()
        if self.fault == "padding is attended to":
            seen = seen | ~real[:, None, :].bool()
        query = self.query(hidden)
        if self.fault == "queries know the length":
            query = query * real.sum(1).log().add(1)[:, None, None]
        scores = query @ self.key(hidden).mT
        scores = scores.masked_fill(~seen, -1e4)
        mixed = scores.softmax(-1) @ self.value(hidden)
        if self.fault == "rows are mixed":
            mixed = mixed + mixed[:, :1].mean(0)
        if self.fault == "dropout stays on":
            mixed = F.dropout(mixed, 0.5)
        if self.fault == "nothing is finite in bfloat16" and torch.is_autocast_enabled("cpu"):
            mixed = mixed * float("inf")
        return self.head(hidden + self.dropout(mixed))


class Loop:
    """What `audit` takes of a bare loop; its accumulation is right, unless a fault says otherwise.

    Args:
        fault: what is wrong; None for nothing.
    """

    def __init__(self, fault: str | None = None) -> None:
        self.fault = fault
        self.model = Net(fault)
        self.examples = sequences()

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        rows = [torch.tensor(example["ids"]) for example in examples]
        shift = {"targets aren't shifted": 0, "targets are shifted twice": 2}.get(
            self.fault or "", 1
        )
        pad = nn.utils.rnn.pad_sequence
        labels = [row.roll(-shift).clone() for row in rows]
        for example, label in zip(examples, labels, strict=True):
            label[len(label) - shift :] = -100
            first = {"a prompt token is learned": 0, "a first answer token isn't": 2}
            label[: first.get(self.fault or "", 1)] = -100
            if self.fault == "the end isn't learned":
                label[label == EOS] = -100
            assert len(example["ids"]) == len(label)
        if self.fault == "long sequences are cut off" and len(rows) > 1:
            rows, labels = ([row[:7] for row in part] for part in (rows, labels))
        fill = PAD if self.fault == "padding is learned" else -100
        return {
            "input_ids": pad(rows, batch_first=True, padding_value=PAD),
            "attention_mask": pad([torch.ones_like(r) for r in rows], batch_first=True),
            "labels": pad(labels, batch_first=True, padding_value=fill),
        }

    def sums(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Losses () and the number of targets ()."""
        logits = self.model(batch["input_ids"], batch["attention_mask"])
        labels = batch["labels"]
        losses = F.cross_entropy(logits.mT, labels, reduction="none")
        if self.fault == "every sequence weighs the same":
            count = (labels != -100).sum(1).clamp(min=1)
            return (losses.sum(1) / count).sum(), torch.tensor(len(labels))
        if self.fault == "padding counts":
            return losses.sum(), torch.tensor(labels.numel())
        return losses.sum(), (labels != -100).sum()

    def step(self, batch: dict[str, Tensor]) -> Tensor:
        total, count = self.sums(batch)
        return total / count

    def accumulate(self, batches: list[dict[str, Tensor]]) -> float:
        """Sums, divided by the targets of the whole step on all ranks."""
        sums = [self.sums(batch) for batch in batches]
        count = torch.stack([count for _, count in sums]).sum().double()
        total = torch.stack([total.detach() for total, _ in sums]).sum().double()
        scale = 1
        if torch.distributed.is_initialized():
            if self.fault != "a mean per rank":
                torch.distributed.all_reduce(count)
                scale = torch.distributed.get_world_size()
            if self.fault != "one rank's loss is logged":
                torch.distributed.all_reduce(total)
        for loss, own in sums:
            whole = own * len(sums) if self.fault == "a mean per micro-batch" else count
            (loss * scale / whole).backward()
        if self.fault == "the last loss is logged":
            return float(sums[-1][0] / sums[-1][1])
        return float(total / count)

    @torch.no_grad()
    def evaluate(self, batches: list[dict[str, Tensor]]) -> float:
        sums = [self.sums(batch) for batch in batches]
        if self.fault == "a mean of batches' means":
            return float(torch.stack([total / count for total, count in sums]).mean())
        total, count = (torch.stack(part).sum() for part in zip(*sums, strict=True))
        return float(total / count)

    @property
    def given(self) -> dict[str, Any]:
        """What `audit` is given beside `step`."""
        parts: dict[str, Callable[..., Any]] = {
            "collate": self.collate,
            "accumulate": self.accumulate,
            "evaluate": self.evaluate,
        }
        fields = {"learned": "answer"}
        return {**parts, "batches": self.examples, "model": self.model, "eos_id": EOS} | {
            "fields": fields
        }


class Module(L.LightningModule):
    """The same as Lightning's documentation would have it: the mean of a micro-batch."""

    def __init__(self, fault: str | None = None) -> None:
        super().__init__()
        self.loop = Loop(fault)
        self.net = self.loop.model

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loop.step(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loop.step(batch), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        some = self.net.head if self.loop.fault == "the optimizer has a part" else self.net
        return torch.optim.Adam(some.parameters(), lr=1e-2)

    def loaders(self) -> dict[str, Any]:
        """What `audit` is given beside it."""
        rows: Any = self.loop.examples
        collate = self.loop.collate
        return {
            "train_dataloaders": DataLoader(rows, 4, shuffle=True, collate_fn=collate),
            "val_dataloaders": DataLoader(rows[:9], 4, collate_fn=collate),
        }


def make() -> Any:
    """For `python -m audit target=support.foreign:make`."""
    from everytoken.audit import prepare

    loop = Loop()
    return prepare(loop.step, **loop.given)


def raises() -> Any:
    """Of a user whose file is elsewhere."""
    raise FileNotFoundError("there is no corpus.txt")
