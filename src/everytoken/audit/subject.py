"""What is audited: the user's own data, model and step, on a few real examples, on the CPU."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import lightning as L
import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from everytoken.audit.observe import (
    Observed,
    observe_evaluation,
    observe_step,
    set_microbatch_tokens,
)
from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide, real_positions
from everytoken.build import build_data, build_module
from everytoken.data import MicroBatches, TokenDataModule
from everytoken.errors import INTERRUPTED, UserError
from everytoken.launch import free_port, global_rank, launch
from everytoken.runs import Run
from everytoken.sampler import StepPlan
from everytoken.tokenizer import Tokenizer

EXAMPLES = 31
"""Examples of each split that are looked at: a prime, so that no number of ranks divides it."""

PIECES = 3
"""Micro-batches that a rank's part of a step or split is cut into, about."""


PAD_TO_MULTIPLE_OF = 13
"""Positions, see data.pad_to_multiple_of."""


class Subject:
    """The user's parts, and what several checks need to know of them.

    The model is in evaluation mode throughout (no dropout) and its weights never change.

    Args:
        run: holds the config.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        cfg = run.config
        L.seed_everything(cfg.seed, workers=True, verbose=False)
        self.tokenizer = build_data(cfg, ("train",)).tokenizer
        self.data = few_data(cfg, self.tokenizer)
        self.module = build_module(cfg, self.tokenizer, total_steps=1).eval()
        self.model: nn.Module = self.module.model
        self.sees_later = cfg.task.shape == "encoder"
        """True if the task allows a position to see later ones."""
        self.precision: str = cfg.precision.mode

    @property
    def train(self) -> MicroBatches:
        """The training examples that are looked at."""
        return self.data.splits["train"]

    @cached_property
    def first_step(self) -> list[int]:
        """The examples of the first optimizer step."""
        return self.data.train_steps().epoch(0)[0].tolist()

    @cached_property
    def batch(self) -> Batch:
        """A micro-batch of a few examples of different lengths."""
        by_length = np.argsort(self.train.lengths, kind="stable")
        chosen = by_length[np.linspace(0, len(by_length) - 1, 4).astype(int)]
        return self.micro_batch(np.unique(chosen).tolist())

    def micro_batch(self, indices: list[int], split: str = "train") -> Batch:
        """Examples as the user's data module puts them together; a filler if there are none."""
        return self.data.splits[split][StepPlan(0, [indices])][0]

    def alone(self, indices: Iterable[int], split: str = "train") -> list[Batch]:
        """Each example as a micro-batch of its own, without padding."""
        return [pad_anew(self.micro_batch([i], split)) for i in indices]

    def logits(self, batch: Batch) -> Tensor:
        """(M, V) float64, with their gradient."""
        return self.module.head(self.module.hidden(batch)).double()

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """Of a loss (), by parameter."""
        named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
        return dict(zip(named, found, strict=True))

    def step(self, pieces: int) -> Observed:
        """The first step in this process, cut into about so many micro-batches."""
        self._cut(self.first_step, "train", pieces)
        return observe_step(self.module, 1, datamodule=self.data)

    @cached_property
    def whole_step(self) -> Observed:
        """The first step as one micro-batch."""
        return self.step(1)

    def evaluation(self, pieces: int) -> Observed:
        """The validation split in this process, cut into about so many micro-batches."""
        self._cut(range(len(self.data.splits["val"])), "val", pieces)
        return observe_evaluation(self.module, 1, self.data)

    @cached_property
    def whole_evaluation(self) -> Observed:
        """The validation split as one micro-batch."""
        return self.evaluation(1)

    def _cut(self, indices: Sequence[int], split: str, pieces: int) -> None:
        lengths = self.data.splits[split].lengths
        set_microbatch_tokens(self.data, piece_tokens(lengths[list(indices)], pieces))

    @cached_property
    def on_processes(self) -> tuple[Observed, Observed]:
        """The first step on 2 processes, and evaluation on 3.

        Raises:
            UserError: a process failed; it has told why.
        """
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.tokenizer.save(folder / "tokenizer.json")
            torch.save(self.model.state_dict(), folder / "weights.pt")
            arguments = {"run_dir": str(self.run.path), "folder": name, "port": free_port()}
            try:
                launch("everytoken.audit.subject:observe_as_rank", arguments, processes=3)
            except SystemExit as error:
                if error.code == INTERRUPTED:
                    raise
                raise UserError("one of several processes failed, see above") from error
            return Observed.load(folder / "step.pt"), Observed.load(folder / "evaluation.pt")


def observe_as_rank(run_dir: str, folder: str, port: int) -> None:
    """What each of three processes does: evaluate, then, without the third, train a step."""
    torch.set_num_threads(1)
    cfg = Run.open(Path(run_dir)).config
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    data = few_data(cfg, Tokenizer.load(Path(folder) / "tokenizer.json"))
    module = build_module(cfg, data.tokenizer, total_steps=1).eval()
    module.model.load_state_dict(torch.load(Path(folder) / "weights.pt", weights_only=True))

    set_microbatch_tokens(data, piece_tokens(data.splits["val"].lengths, 3 * PIECES))
    evaluation = observe_evaluation(module, 3, data)
    if global_rank() == 0:
        evaluation.save(Path(folder) / "evaluation.pt")
    torch.distributed.destroy_process_group()
    if global_rank() == 2:
        return

    os.environ["MASTER_PORT"] = str(port)  # the first one may not be free again yet
    first = data.splits["train"].lengths[data.train_steps().epoch(0)[0]]
    set_microbatch_tokens(data, piece_tokens(first, 2 * PIECES))
    step = observe_step(module, 2, datamodule=data)
    if global_rank() == 0:
        step.save(Path(folder) / "step.pt")


def few_data(cfg: DictConfig, tokenizer: Tokenizer) -> TokenDataModule:
    """The user's data, cut down to its first examples."""
    cfg = cfg.copy()
    cfg.data.limit_examples = min(cfg.data.limit_examples or EXAMPLES, EXAMPLES)
    # Sequences may all have one length: without padding, faults that it brings would not show.
    cfg.data.pad_to_multiple_of = PAD_TO_MULTIPLE_OF
    data = build_data(cfg, ("train", "val"), tokenizer)
    for split in data.splits.values():
        split.items, split.lengths = split.items[:EXAMPLES], split.lengths[:EXAMPLES]
    return data


def piece_tokens(lengths: np.ndarray, pieces: int) -> int:
    """Real tokens of a micro-batch, so that examples of these lengths make about `pieces`."""
    return max(int(lengths.max()), -(-int(lengths.sum()) // pieces))


def pad_anew(
    batch: Batch, *, extra: int = 0, side: PaddingSide | None = None, garbage: Tensor | None = None
) -> Batch:
    """The same sequences with other padding.

    Args:
        batch: stays as it is.
        extra: positions more than the longest sequence needs, of inputs and sources.
        side: where the padding stands; None for the batch's own.
        garbage: (n,) ids to put into the padding, over and over; None for the batch's first id.
    """
    side = side or batch.padding_side
    filling = batch.input_ids.flatten()[:1] if garbage is None else garbage

    def moved(ids: Tensor, lengths: Tensor, fill: Tensor) -> Tensor:
        width = int(lengths.max()) + extra
        out = fill.repeat(len(ids) * width)[: len(ids) * width].reshape(len(ids), width)
        old = real_positions(lengths, ids.shape[1], batch.padding_side)
        out[real_positions(lengths, width, side)] = ids[old]
        return out

    source_ids = None
    if batch.source_ids is not None and batch.source_lengths is not None:
        source_ids = moved(batch.source_ids, batch.source_lengths, filling)
    return replace(
        batch,
        input_ids=moved(batch.input_ids, batch.lengths, filling),
        labels=moved(batch.labels, batch.lengths, torch.tensor([IGNORE_INDEX])),
        source_ids=source_ids,
        padding_side=side,
    )
