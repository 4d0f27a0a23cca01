"""The door to a LightningModule and its data: Lightning's own Trainer makes each step."""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, RandomSampler

from everytoken.audit.foreign.borrowed import trainable, weights_kept
from everytoken.audit.foreign.door import Door
from everytoken.audit.foreign.loaders import Dealt, dealt, first_of, read
from everytoken.audit.foreign.terms import NotApplicableError, Settings, Step, seeded
from everytoken.audit.observe import KeepGradients, gradients_by_name, loader
from everytoken.commands.build import quiet_lightning
from everytoken.errors import UserError, one_line

Module = TypeVar("Module", bound=L.LightningModule)

RESUMED_STEPS = 4
"""Steps of the run that is broken off after half of them."""


class LightningDoor(Door):
    """See `Door`; the module is a copy.

    Args:
        module: a LightningModule.
        datamodule: has its data; or
        train_dataloaders, val_dataloaders: have.
        settings: see `Settings`.
    """

    framework = "Lightning"

    def __init__(
        self,
        module: L.LightningModule,
        datamodule: L.LightningDataModule | None = None,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        settings: Settings | None = None,
    ) -> None:
        self.module = copied(module)
        if datamodule is not None:
            train_dataloaders, val_dataloaders = _of_datamodule(copy.copy(datamodule))
        if train_dataloaders is None and is_overridden("train_dataloader", module):
            train_dataloaders = module.train_dataloader()
            if val_dataloaders is None and is_overridden("val_dataloader", module):
                val_dataloaders = module.val_dataloader()
        if train_dataloaders is None:
            raise UserError("give the data too: audit(module, datamodule=…) or train_dataloaders=…")
        if isinstance(train_dataloaders, Mapping | list | tuple) and len(train_dataloaders) > 1:
            raise UserError("it trains on several loaders at once: give one as train_dataloaders=…")
        self.loader = first_of(train_dataloaders)
        self.val_loader = first_of(val_dataloaders)
        settings = settings or Settings()
        examples, self._collate = read(self.loader)
        held_out, self._collate_held_out = (
            ([], None) if self.val_loader is None else read(self.val_loader)
        )
        super().__init__(self.module, examples, held_out, settings)
        self._optimized: set[str] | None = None
        self._clip: float | None = None

    def collate(self, examples: Sequence[Any]) -> Any:
        """By the training loader."""
        return self._collate(examples)

    def step(self, micro_batches: Sequence[Any], ranks: int = 1) -> Step:
        """One step of `Trainer.fit`, with accumulate_grad_batches."""
        if not self.module.automatic_optimization and len(micro_batches) > 1:
            raise NotApplicableError("the module optimizes by hand: how it accumulates is its own")
        watch = Watch()
        configured = self.module.configure_optimizers
        self.module.configure_optimizers = lambda: self._keep(configured)
        try:
            trainer = plain_trainer(
                ranks,
                watch,
                accumulate_grad_batches=len(micro_batches),
                max_steps=1,
                gradient_clip_val=self._clip,
            )
            with seeded(self.seed):
                trainer.fit(self.module, loader(micro_batches))
            logged = {k: float(v) for k, v in trainer.callback_metrics.items() if v.numel() == 1}
            kept: dict[int, Tensor | None] = {}
            for optimizer in trainer.optimizers:
                assert isinstance(optimizer, KeepGradients)
                kept |= optimizer.kept
        finally:
            del self.module.configure_optimizers
            self.module.zero_grad()
        losses = [loss * len(micro_batches) for loss in watch.losses]
        return Step(gradients_by_name(trainable(self.module), kept), losses, logged)

    def _keep(self, configured: Any) -> Any:
        """As many optimizers and schedulers as the module's, which move nothing."""
        optimizers, schedulers = _parts(configured())
        if not optimizers:
            raise UserError("configure_optimizers gives no optimizer: nothing is trained")
        if self._optimized is None:
            inside = {id(p) for one in optimizers for g in one.param_groups for p in g["params"]}
            named = self.module.named_parameters()
            self._optimized = {name for name, p in named if id(p) in inside}
        every = [{"params": [*trainable(self.module).values()]}]
        groups = [every] if len(optimizers) == 1 else [one.param_groups for one in optimizers]
        kept = [KeepGradients([{"params": g["params"]} for g in own]) for own in groups]
        if self.module.automatic_optimization:
            return kept
        return kept, [LambdaLR(kept[0], lambda step: 1.0) for _ in range(schedulers)]

    def optimized(self) -> set[str] | None:
        """By `configure_optimizers`, which the first step has called."""
        return self._optimized

    def evaluate(
        self, batch_size: int, ranks: int = 1, first: int | None = None
    ) -> dict[str, float]:
        """`Trainer.validate`, with the sampler that Lightning gives each rank."""
        if self.val_loader is None:
            raise NotApplicableError("there is no validation data: give val_dataloaders")
        dataset: Any = self.held_out[:first]
        batches = DataLoader(dataset, batch_size, collate_fn=self._collate_held_out)
        trainer = plain_trainer(ranks, use_distributed_sampler=True)
        with seeded(self.seed):
            [found] = trainer.validate(self.module, batches, verbose=False)
        return dict(found)

    @property
    def deals_short_batches(self) -> bool:
        """Unless the training loader drops them."""
        return not getattr(self.loader, "drop_last", False)

    def dealt(self, epoch: int) -> Dealt:
        """By the training loader."""
        return dealt(self.loader, epoch)

    @contextmanager
    def clipped(self, norm: float) -> Iterator[None]:
        """By the trainer's `gradient_clip_val`."""
        if not self.module.automatic_optimization:
            raise NotApplicableError("the module optimizes by hand: how it clips is its own")
        self._clip = norm
        try:
            yield
        finally:
            self._clip = None

    def resumed(self, folder: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """`Trainer.fit` with the module's optimizer, and again from a checkpoint in mid-epoch."""
        whole = self._trained(folder, None)
        half = RESUMED_STEPS // 2
        [saved] = Path(folder).glob(f"*step={half}.ckpt")
        return whole, self._trained(folder, str(saved))

    def _trained(self, folder: str, checkpoint: str | None) -> dict[str, Tensor]:
        trainer = saving_trainer(folder)
        with weights_kept(self.module), seeded(self.seed):
            trainer.fit(self.module, self._epoch(), ckpt_path=checkpoint, weights_only=False)
            return {name: p.detach().clone() for name, p in trainable(self.module).items()}

    def _epoch(self) -> Any:
        """A loader of so few examples that each epoch is a few steps, in the user's order."""
        sampler = getattr(self.loader, "sampler", None)
        dataset: Any = self.examples
        return DataLoader(
            dataset,
            max(1, len(dataset) // RESUMED_STEPS),
            shuffle=isinstance(sampler, RandomSampler),
            collate_fn=self._collate,
        )


def copied(module: Module) -> Module:
    """A LightningModule again, without its trainer.

    Raises:
        UserError: it can't be copied.
    """
    try:
        trainer = module.trainer
    except RuntimeError:  # it has none
        trainer = None
    module.trainer = None
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise UserError(
            f"this LightningModule can't be copied ({one_line(error)}): give the audit one that "
            "was just made"
        ) from error
    finally:
        module.trainer = trainer


class Watch(L.Callback):
    """Keeps what goes into each backward."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Tensor) -> None:
        """Divided by `accumulate_grad_batches` already."""
        self.losses.append(float(loss.detach()))


def plain_trainer(ranks: int, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    """A trainer that shows and writes nothing."""
    quiet_lightning()
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", ".*in eval mode at the start.*")
    given = {
        "use_distributed_sampler": False,
        "enable_checkpointing": False,
        "limit_val_batches": None if "max_steps" not in options else 0,
        "max_epochs": -1,
        **options,
    }
    return L.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp_find_unused_parameters_true" if ranks > 1 else "auto",
        log_every_n_steps=1,
        logger=DummyLogger(),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **given,
    )


def saving_trainer(folder: str) -> L.Trainer:
    """A trainer of RESUMED_STEPS steps, which saves in the middle of them."""
    keep = ModelCheckpoint(
        folder, every_n_train_steps=RESUMED_STEPS // 2, save_top_k=-1, filename="{step}"
    )
    return plain_trainer(1, keep, enable_checkpointing=True, max_steps=RESUMED_STEPS)


def _of_datamodule(data: L.LightningDataModule) -> tuple[Any, Any]:
    """Its loaders for training and validation, made ready as a trainer does."""
    data.prepare_data()
    data.setup("fit")
    validation = data.val_dataloader()
    return data.train_dataloader(), validation if validation is not None else None


def _parts(configured: Any) -> tuple[list[Optimizer], int]:
    """The optimizers in what `configure_optimizers` returns, and how many schedulers."""
    if isinstance(configured, Mapping):
        return [configured["optimizer"]], int("lr_scheduler" in configured)
    if isinstance(configured, tuple) and len(configured) == 2 and isinstance(configured[0], list):
        return configured[0], len(configured[1])
    found = configured if isinstance(configured, list | tuple) else [configured]
    parts = [_parts(one) for one in found if isinstance(one, Mapping)]
    optimizers = [one for one in found if isinstance(one, Optimizer)]
    return [*optimizers, *(o for own, _ in parts for o in own)], sum(n for _, n in parts)
