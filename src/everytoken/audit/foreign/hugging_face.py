"""The door to a Trainer of transformers, or one derived from it: it trains and evaluates itself.

What works is a shallow copy of the user's trainer, with arguments, accelerator and callbacks of its
own; only the model is the same, which is borrowed.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import transformers
from torch import Tensor
from torch.distributed import is_initialized
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import IterableDataset, Subset
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback
from transformers.trainer_pt_utils import LabelSmoother

from everytoken.audit.foreign.borrowed import trainable, weights_kept
from everytoken.audit.foreign.door import Door
from everytoken.audit.foreign.loaders import Dealt, dealt
from everytoken.audit.foreign.loop import logits_of
from everytoken.audit.foreign.terms import HELD_OUT, LOOKED_AT, Settings, Step, seeded, spread
from everytoken.audit.observe import KeepGradients, loader
from everytoken.errors import UserError

PLAIN: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "fp16": False,
    "logging_strategy": "steps",
    "logging_steps": 1,
    "save_strategy": "no",
    "eval_strategy": "no",
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "report_to": "none",
    "push_to_hub": False,
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "auto_find_batch_size": False,
    "torch_compile": False,
    "neftune_noise_alpha": None,
    "dataloader_num_workers": 0,
    "dataloader_persistent_workers": False,
    "dataloader_prefetch_factor": None,
}
"""Arguments of all that is done here: on the CPU, in float32, unclipped, unseen."""

RESUMED_STEPS = 4
"""Steps of the run that is broken off after half of them."""


class TrainerDoor(Door):
    """See `Door`.

    Args:
        trainer: a `transformers.Trainer` or one derived from it, with its data.
        settings: see `Settings`.
    """

    framework = "a Trainer"

    def __init__(self, trainer: Any, settings: Settings | None = None) -> None:
        if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            raise UserError("the audit runs on a CPU: make the trainer without deepspeed and fsdp")
        if trainer.train_dataset is None or not _some(trainer.train_dataset, 1):
            raise UserError("the trainer has no train_dataset to audit with")
        self.trainer = trainer
        self.framework = f"{type(trainer).__module__.partition('.')[0]}.{type(trainer).__name__}"
        self._smoothing = self._clip = 0.0
        with self.opened():
            source = self._double().get_train_dataloader()
        self._collate = source.collate_fn
        self._columns = getattr(source.dataset, "column_names", None)
        held_out = trainer.eval_dataset
        if isinstance(held_out, Mapping):
            held_out = next(iter(held_out.values()), None)
        self._held_out = _some(trainer.train_dataset if held_out is None else held_out, HELD_OUT)
        examples = [*_some(trainer.train_dataset, LOOKED_AT)]
        settings = settings or Settings()
        if trainer.args.fp16:
            settings = replace(settings, precision="fp16")
        super().__init__(trainer.model, examples, [*self._held_out], settings)

    def collate(self, examples: Sequence[Any]) -> Any:
        """By the trainer's collator, given the columns that it would be given."""
        if self._columns is None:
            return self._collate([*examples])
        return self._collate([{name: e[name] for name in self._columns} for e in examples])

    def step(self, micro_batches: Sequence[Any], ranks: int = 1) -> Step:
        """One step of `Trainer.train`, with gradient_accumulation_steps."""
        own = self._double(gradient_accumulation_steps=len(micro_batches), max_steps=1)
        # A model may write into its batch.
        batches = loader([copy.copy(batch) for batch in micro_batches])
        own.get_train_dataloader = lambda: batches
        named = trainable(self.model)
        keep = own.optimizer = KeepGradients([{"params": [*named.values()]}])
        own.lr_scheduler = LambdaLR(keep, lambda step: 1.0)
        losses: list[float] = []
        own.compute_loss = _watched(own.compute_loss, losses)
        with seeded(self.seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own.train()
        self.model.zero_grad()
        logged = next((entry for entry in own.state.log_history if "loss" in entry), {})
        return Step(
            keep.gradients(named), losses, {"loss": float(logged["loss"])} if logged else {}
        )

    def evaluate(
        self, batch_size: int, ranks: int = 1, first: int | None = None
    ) -> dict[str, float]:
        """`Trainer.evaluate`, which deals out examples itself."""
        own = self._double(per_device_eval_batch_size=batch_size)
        own.eval_dataset = {"held_out": _some(self._held_out, first or HELD_OUT)}
        with seeded(self.seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = own.evaluate("held_out")
        return {name: float(value) for name, value in found.items() if _is_number(value)}

    def resumed(self, folder: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """`Trainer.train` with the trainer's optimizer, and again from its middle."""
        saved = Path(folder) / f"checkpoint-{RESUMED_STEPS // 2}"
        return self._trained(folder, None), self._trained(folder, str(saved))

    def _trained(self, folder: str, checkpoint: str | None) -> dict[str, Tensor]:
        own = self._double(
            output_dir=folder,
            max_steps=RESUMED_STEPS,
            save_strategy="steps",
            save_steps=RESUMED_STEPS // 2,
            gradient_accumulation_steps=1,
            per_device_train_batch_size=2,
        )
        own.train_dataset = _some(own.train_dataset, 2 * RESUMED_STEPS)
        own.optimizer = own.lr_scheduler = None
        with weights_kept(self.model), seeded(self.seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own.train(resume_from_checkpoint=checkpoint)
            return {name: p.detach().clone() for name, p in trainable(self.model).items()}

    @property
    def deals_short_batches(self) -> bool:
        """Unless the trainer drops them."""
        return not self.trainer.args.dataloader_drop_last

    def dealt(self, epoch: int) -> Dealt:
        """By the training loader."""
        return dealt(self._double().get_train_dataloader(), epoch)

    @contextmanager
    def clipped(self, norm: float) -> Iterator[None]:
        """By the trainer's own `max_grad_norm`."""
        self._clip = norm
        try:
            yield
        finally:
            self._clip = 0.0

    @contextmanager
    def smoothed(self, amount: float) -> Iterator[None]:
        """By the trainer's own `label_smoothing_factor`."""
        self._smoothing = amount
        try:
            yield
        finally:
            self._smoothing = 0.0

    def optimized(self) -> set[str] | None:
        """By `create_optimizer`, or in the optimizer that the trainer was given."""
        own = self._double()
        groups = (own.optimizer or own.create_optimizer()).param_groups
        inside = {id(p) for group in groups for p in group["params"]}
        return {name for name, p in self.model.named_parameters() if id(p) in inside}

    def logits(self, batch: Any) -> Tensor:
        """The model's."""
        return logits_of(self.model(**copy.copy(batch)))

    @property
    def smoothing(self) -> float | None:
        """The trainer's, unless it has a loss of its own."""
        args, own = self.trainer.args, self.trainer.compute_loss_func
        is_usual = own is None and getattr(args, "loss_type", "nll") == "nll"
        return args.label_smoothing_factor if is_usual else None

    @property
    def tokenizer(self) -> Any:
        """The trainer's processing class, or its tokenizer."""
        found = self.settings.tokenizer or self.trainer.processing_class
        return getattr(found, "tokenizer", found)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """What accelerate keeps for a whole process is put back, and transformers is quiet."""
        accelerator = self.trainer.accelerator
        shared = [
            vars(part)
            for part in (
                accelerator.state,
                accelerator.gradient_state,
                self.trainer.args.distributed_state,
            )
            if part is not None
        ]
        kept = [dict(part) for part in shared]
        level = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()
        with ExitStack() as stack:
            stack.enter_context(_without_bars())
            try:
                yield
            finally:
                transformers.logging.set_verbosity(level)
                for part, before in zip(shared, kept, strict=True):
                    part.clear()
                    part.update(before)

    def _double(self, **arguments: Any) -> Any:
        """The trainer again, with other arguments, and nothing of it that the user's has."""
        trainer = self.trainer
        own = copy.copy(trainer)
        for name, value in vars(trainer).items():
            if isinstance(value, dict) and name.startswith("_"):  # metrics of TRL, say
                vars(own)[name] = copy.deepcopy(value)
        smoothing = self._smoothing or trainer.args.label_smoothing_factor
        own.args = replace(
            trainer.args,
            **PLAIN
            | {
                "label_smoothing_factor": smoothing,
                "max_grad_norm": self._clip,
                "ddp_backend": "gloo" if is_initialized() else None,
                "accelerator_config": copy.deepcopy(trainer.args.accelerator_config),
                **arguments,
            },
        )
        if self._smoothing:
            own.label_smoother = LabelSmoother(epsilon=self._smoothing)
        own.create_accelerator_and_postprocess()
        own.model_wrapped = own.model
        own.model_init = None  # it would make another model
        own.callback_handler = CallbackHandler(
            [DefaultFlowCallback()], own.model, own.processing_class, None, None
        )
        own.control = transformers.TrainerControl()
        own.state = transformers.TrainerState()
        return own


def _watched(compute: Any, losses: list[float]) -> Any:
    """`compute_loss`, whose results are kept."""

    def compute_loss(*arguments: Any, **options: Any) -> Any:
        found = compute(*arguments, **options)
        losses.append(float((found[0] if isinstance(found, tuple) else found).detach()))
        return found

    return compute_loss


def _some(dataset: Any, count: int) -> Any:
    """Some examples of a dataset, from its first to its last if it has a length."""
    if isinstance(dataset, datasets.Dataset):
        return dataset.select(spread(len(dataset), count))
    if isinstance(dataset, IterableDataset | datasets.IterableDataset):
        return [*islice(dataset, count)]
    return Subset(dataset, spread(len(dataset), count))


@contextmanager
def _without_bars() -> Iterator[None]:
    """No progress of datasets and transformers is shown."""
    libraries = [
        (datasets.is_progress_bar_enabled, datasets.disable_progress_bars),
        (transformers.logging.is_progress_bar_enabled, transformers.logging.disable_progress_bar),
    ]
    shown = [is_on() for is_on, _ in libraries]
    for _, switch_off in libraries:
        switch_off()
    try:
        yield
    finally:
        again = (datasets.enable_progress_bars, transformers.logging.enable_progress_bar)
        for was_on, switch_on in zip(shown, again, strict=True):
            if was_on:
                switch_on()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
