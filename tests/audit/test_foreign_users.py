"""What users give the audit: other forms of batches and modules work; what can't be is one line."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from everytoken.audit import audit, prepare
from everytoken.audit.foreign import ranks
from everytoken.audit.foreign.entrance import CHECKS, of_target, run
from everytoken.errors import UserError
from support.auditing import ONE_PROCESS
from support.foreign import EOS, PAD, WORDS, Loop, Module, sequences


class Recurrent(nn.Module):
    """ids (B, T) → logits (B, T, V): causal without any mask."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(WORDS, width, padding_idx=PAD)
        self.body = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(self.words(ids))[0])


ROWS = [torch.tensor(row["ids"]) for row in sequences()]


def padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    pad = nn.utils.rnn.pad_sequence
    return (
        pad([row[:-1] for row in rows], batch_first=True, padding_value=PAD),
        pad([row[1:] for row in rows], batch_first=True, padding_value=PAD),
    )


@dataclass(frozen=True)
class Fields:
    x: Tensor
    y: Tensor
    name: str = "a batch"


class Named(NamedTuple):
    ids: Tensor
    labels: Tensor


FORMS: dict[str, tuple[Any, Any]] = {
    "tuple": (padded, lambda batch: batch),
    "named tuple": (lambda rows: Named(*padded(rows)), lambda batch: batch),
    "dataclass": (lambda rows: Fields(*padded(rows)), lambda batch: (batch.x, batch.y)),
    "dict in a dict": (
        lambda rows: {"text": dict(zip(("ids", "labels"), padded(rows), strict=True))},
        lambda batch: batch["text"].values(),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_any_form_with_labels_that_are_ignored_by_the_padding_id(form: str):
    collate, parts = FORMS[form]
    net = Recurrent()

    def step(batch: Any) -> Tensor:
        ids, labels = parts(batch)
        return F.cross_entropy(net(ids).mT, labels, ignore_index=PAD)

    report = audit(step, batches=ROWS, collate=collate, model=net, eos_id=EOS, processes=False)
    assert report.failures == ["accumulation"]  # a micro-batch's mean
    found = {r.check.name for r in report.results if r.finding.applies}
    assert {"vocabulary", "end of sequence", "causality", "padding length"} <= found


@pytest.mark.parametrize(("divides", "failures"), [(True, []), (False, ["accumulation"])])
def test_windows_of_one_width_are_never_cut_unevenly(divides: bool, failures: list[str]):
    """As nanoGPT's, whose labels that are ignored would be -1."""
    data = torch.randint(3, WORDS, (9, 17), generator=torch.Generator().manual_seed(0))
    net = Recurrent()

    def step(batch: tuple[Tensor, Tensor]) -> Tensor:
        ids, labels = batch
        return F.cross_entropy(net(ids).flatten(0, 1), labels.flatten(), ignore_index=-1)

    def accumulate(batches: list[Any]) -> None:
        for batch in batches:
            (step(batch) / (len(batches) if divides else 1)).backward()

    batches = [(data[:, :-1], data[:, 1:])]
    door = prepare(step, batches=batches, model=net, accumulate=accumulate, processes=False)
    assert run(door).failures == failures


def test_a_model_that_knows_padding_by_its_id_is_given_no_other():
    class Backwards(Recurrent):
        def forward(self, ids: Tensor) -> Tensor:
            lengths = (ids != PAD).sum(1)
            turned = [row[:n].flip(0) for row, n in zip(ids, lengths.tolist(), strict=True)]
            hidden = super().forward(nn.utils.rnn.pad_sequence(turned, batch_first=True))
            places = (lengths[:, None] - 1 - torch.arange(ids.shape[1])).clamp(min=0)
            return hidden.gather(1, places[:, :, None].expand(-1, -1, WORDS))

    net = Backwards()
    report = audit(
        lambda batch: F.cross_entropy(net(batch[0]).mT, batch[1], ignore_index=PAD),
        batches=ROWS,
        collate=lambda rows: (padded(rows)[0], padded(rows)[0]),
        model=net,
        processes=False,
    )
    assert "padding length" not in report.failures
    [content] = [r.finding for r in report.results if r.check.name == "padding content"]
    assert not content.applies


# Lightning


class ByHand(Module):
    """Two optimizers, each with its scheduler, and no automatic optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        one, other = self.optimizers()  # type: ignore[misc]
        first, second = self.lr_schedulers()  # type: ignore[misc]
        self.manual_backward(self.loop.step(batch))
        parts: Any = (one, other, first, second)
        for part in parts:
            part.step()

    def configure_optimizers(self) -> Any:
        parts = ([*self.net.head.parameters()], [*self.net.words.parameters()])
        some = [torch.optim.SGD(part, 0.1) for part in parts]
        schedulers = [torch.optim.lr_scheduler.StepLR(one, 1) for one in some]
        return some, [schedulers[0], {"scheduler": schedulers[1], "interval": "step"}]


class Exact(Module):
    """Sums, divided once: before the optimizer's step, by the targets of all ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = torch.zeros(2, dtype=torch.float64)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        total, count = self.loop.sums(batch)
        self.sums += torch.stack([total.detach(), count]).double()
        return total * self.trainer.accumulate_grad_batches

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        sums: Any = self.all_gather(self.sums)
        total, count = sums.view(-1, 2).sum(0)
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad *= self.trainer.world_size / count
        self.log("train_loss", total / count)
        self.sums.zero_()


class Plateau(Module):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"},
        }


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from sequences()


@pytest.mark.parametrize(
    ("kind", "loader", "failures"),
    [
        (ByHand, None, ["parameters"]),  # attention is in neither
        (Plateau, None, []),
        (Module, DataLoader(Stream(), 4, collate_fn=Loop().collate), []),
    ],
    ids=["two optimizers by hand", "a scheduler", "a stream"],
)
def test_modules_of_many_kinds_work(kind: type[Module], loader: Any, failures: list[str]):
    module = kind()
    given = module.loaders()
    given["train_dataloaders"] = given["train_dataloaders"] if loader is None else loader
    checks = [c for c in ONE_PROCESS if c.name not in ("accumulation", "evaluation", "resume")]
    assert run(prepare(torch.compile(module), **given), checks).failures == failures


def test_a_lightning_module_that_divides_once_passes():
    module = Exact()
    report = audit(
        module, train_dataloaders=module.loaders()["train_dataloaders"], eos_id=EOS, resume=False
    )
    assert report.failures == []
    found = {r.check.name for r in report.results if r.finding.applies}
    assert {"accumulation", "two processes", "clipping", "logged loss", "epoch"} <= found


@pytest.mark.parametrize(("shuffles", "failures"), [(True, []), (False, ["epoch"])])
def test_an_epoch_is_to_be_shuffled_anew(shuffles: bool, failures: list[str]):
    class Once(torch.utils.data.Sampler[int]):
        shuffle = True

        def __init__(self) -> None:
            self.epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch if shuffles else 0

        def __iter__(self) -> Iterator[int]:
            generator = torch.Generator().manual_seed(self.epoch)
            return iter(torch.randperm(24, generator=generator).tolist())

        def __len__(self) -> int:
            return 24

    module = Module()
    rows: Any = module.loop.examples
    loader = DataLoader(rows, 4, sampler=Once(), collate_fn=module.loop.collate)
    door = prepare(module, train_dataloaders=loader)
    assert run(door, [c for c in CHECKS if c.name == "epoch"]).failures == failures


# What can't be


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("step", "told"),
    [
        (lambda loss: None, "step must return one loss that has a gradient"),
        (lambda loss: loss.item(), "no item()"),
        (lambda loss: loss.backward() or loss, "no backward"),
        (lambda loss: loss / (1 // 0), "ZeroDivisionError"),
        (lambda loss: loss.cuda(), "puts the model on the CPU"),
    ],
    ids=["nothing", "a number", "after a backward", "an error", "on a GPU"],
)
def test_a_step_that_gives_no_loss_is_told_so(
    step: Any, told: str, monkeypatch: pytest.MonkeyPatch
):
    def no_gpu(self: Tensor) -> Tensor:
        raise RuntimeError("Found no NVIDIA driver on your system.")

    monkeypatch.setattr(Tensor, "cuda", no_gpu)
    loop = Loop()
    given = {**loop.given, "accumulate": None, "processes": False}
    report = audit(lambda batch: step(loop.step(batch)), **given)
    assert report.failures == ["repeatable"]
    assert told in report.results[0].finding.note


@pytest.mark.bad_input
def test_what_cant_be_audited_says_what_to_give():
    loop, module = Loop(), Module()
    rows = {"batches": loop.examples, "collate": loop.collate}
    loaders = module.loaders()["train_dataloaders"]
    wrapped = nn.DataParallel(loop.model)
    for told, what, given in (
        ("no example", loop.step, {"batches": [], "model": loop.model}),
        ("no example", loop.step, {"batches": [], "collate": loop.collate, "model": loop.model}),
        ("batches= isn't for an audit of Lightning", module, rows),
        ("several loaders", module, {"train_dataloaders": [loaders, loaders]}),
        ("without its DataParallel", loop.step, {**rows, "model": wrapped}),
    ):
        with pytest.raises(UserError, match=told):
            prepare(what, **given)


# Processes


@pytest.mark.slow
def test_where_no_fork_works_ranks_make_it_anew(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ranks, "why_not_fork", lambda: "no fork works here")
    checks = [c for c in CHECKS if c.name == "two processes"]
    [found] = run(of_target("support.foreign:make"), checks).results
    assert found.passed
    assert found.finding.applies

    loop = Loop()
    [found] = run(prepare(loop.step, **loop.given), checks).results
    assert "no fork works here" in found.finding.note
    assert "target=" in found.finding.note
