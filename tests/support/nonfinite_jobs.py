"""Steps that go wrong, and jobs that `test_nonfinite` runs as two ranks."""

from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader

from everytoken.batch import Batch
from everytoken.callbacks.last_checkpoint import LastCheckpoint
from everytoken.callbacks.nonfinite import NonFiniteSteps
from everytoken.callbacks.replay import whole_weights
from everytoken.commands.build import quiet_lightning
from everytoken.commands.strategy import Sharding
from everytoken.errors import UserError
from everytoken.run.checkpoint_file import CheckpointFiles, read
from everytoken.runtime.world import global_rank
from support import prefork
from support.fitting import make_module
from support.helpers import VOCABULARY, make_batch

BAD_ID = 22
"""Of a token that only the bad step has."""


class Bigrams(nn.Module):
    """Predicts the next token from the last one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.out = nn.Linear(8, 8)
        self.head = nn.Linear(8, VOCABULARY, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        return self.out(self.embedding(batch.input_ids))[batch.is_target]


class Normed(Bigrams):
    """With running means, which training changes without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, batch: Batch) -> Tensor:
        return self.norm(super().forward(batch))


def poisoned(model: Any) -> Any:
    """The model, with an embedding that makes any loss NaN."""
    with torch.no_grad():
        model.embedding.weight[BAD_ID] = torch.inf
    return model


def good_step(seed: int) -> list[Batch]:
    """Three micro-batches without the bad token."""
    batches = [make_batch([3, 5, 2], seed=10 * seed + i) for i in range(3)]
    for batch in batches:
        batch.input_ids.clamp_(max=BAD_ID - 1)
    return batches


class Kept(L.Callback):
    """Keeps what was logged, and where the schedule was, after each step."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []
        self.schedule_steps: list[int] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.logged.append({name: float(v) for name, v in trainer.callback_metrics.items()})
        self.schedule_steps.append(pl_module.lr_schedulers().last_epoch)


def loader(steps: list[list[Batch]]) -> DataLoader[Any]:
    return DataLoader(steps, batch_size=None)  # pyright: ignore[reportArgumentType]


def make_trainer(folder: Path, steps: int, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    settings: dict[str, Any] = {"devices": 1, "log_every_n_steps": 1} | options
    return L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **settings,
    )


def run(folder: Path, job: str = "job") -> list[dict[str, dict[str, Any]]]:
    """What each of two ranks found, by strategy."""
    prefork.launch(f"support.nonfinite_jobs:{job}", {"folder": str(folder)}, 2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def job(folder: str) -> None:
    """Three steps, the second with a bad token on rank 1; stopped, left out, and never made."""
    quiet_lightning()
    rank = global_rank()
    steps = [good_step(10 * rank + i) for i in range(3)]
    if rank == 1:
        steps[1][1].input_ids[0, 0] = BAD_ID
    found: dict[str, Any] = {}
    for name in ("ddp", "fsdp"):
        part = found[name] = {}
        path = Path(folder) / name
        try:
            train(steps, name, path / "stop", allowed=0)
        except UserError as error:
            part["stopped"] = str(error)
        part["steps"], part["left out"] = train(steps, name, path / "skip", allowed=1)
        _, part["without"] = train([steps[0], steps[2]], name, path / "none", allowed=0)
    torch.save(found, Path(folder) / f"{rank}.pt")


class Breaks(L.Callback):
    """Breaks off, on all ranks; until then it notes what validation finds."""

    def __init__(self, step: int | None) -> None:
        self.step = step
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise ConnectionError("broken off")

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["val/loss"]))


def resumed_job(folder: str) -> None:
    """Six steps with running means, the third left out: at once, and broken off after four."""
    quiet_lightning()
    found: dict[str, Any] = {}
    for name in ("ddp", "fsdp"):
        path = Path(folder) / name
        found[name] = {"at once": go_on(path / "one", name)}
        with suppress(ConnectionError):
            go_on(path / "two", name, break_at=4)
        found[name]["resumed"] = go_on(path / "two", name)
    torch.save(found, Path(folder) / f"{global_rank()}.pt")


def go_on(folder: Path, name: str, break_at: int | None = None) -> tuple[list[Tensor], list[float]]:
    """The model's state at the end, and the losses of its validations."""
    timeout = timedelta(seconds=60)
    strategy: Strategy = DDPStrategy(gradient_as_bucket_view=True, timeout=timeout)
    if name == "fsdp":
        strategy = Sharding(2, timeout)
    rank, last = global_rank(), folder / "checkpoints" / "last.ckpt"
    steps = [good_step(10 * rank + i) for i in range(6)]
    if rank == 1:
        steps[2][1].input_ids[0, 0] = BAD_ID
    module, watch = make_module(), Breaks(break_at)
    module.model, module.make_optimizer = poisoned(Normed()), partial(AdamW, lr=0.01)
    trainer = make_trainer(
        folder,
        len(steps),
        *(LastCheckpoint(3, 1), NonFiniteSteps(folder / "nonfinite", 1), watch),
        devices=2,
        strategy=strategy,
        plugins=[CheckpointFiles()],
        val_check_interval=2,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
    )
    done = read(last)["global_step"] if last.exists() else 0
    trainer.fit(
        module,
        loader((steps + steps)[done:]),
        DataLoader(good_step(90 + rank), batch_size=None),  # pyright: ignore[reportArgumentType]
        ckpt_path=last if last.exists() else None,
        weights_only=True,
    )
    return list(whole_weights(module.model).values()), watch.losses


def count_read(model: nn.Module) -> None:
    """Have the model count the real tokens that it reads in a buffer: other ones on each rank."""
    read = torch.zeros((), dtype=torch.int64)
    model.register_buffer("read", read)

    def count(_: nn.Module, taken: tuple[Batch]) -> None:
        read.add_(taken[0].real_count)

    model.register_forward_pre_hook(count)


def train(
    steps: list[list[Batch]], name: str, files: Path, allowed: int
) -> tuple[int, list[Tensor]]:
    """Steps that were made, and the model's state after them."""
    strategy: Strategy = DDPStrategy(gradient_as_bucket_view=True)
    if name == "fsdp":
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    module = make_module()
    # What is sharded must keep something of a step to be resumed.
    module.make_optimizer = lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    poisoned(module.model)
    count_read(module.model)
    guard = NonFiniteSteps(files / "nonfinite", allowed)
    trainer = make_trainer(files, len(steps), guard, devices=2, strategy=strategy)
    trainer.fit(module, loader(steps))
    return trainer.global_step, list(whole_weights(module.model).values())
