"""What the audit needs of a framework: a batch, a step, an evaluation, as it makes them itself."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from everytoken.audit.foreign.loaders import Dealt
from everytoken.audit.foreign.terms import HELD_OUT, NotApplicableError, Settings, Step
from everytoken.errors import UserError

WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel")
"""Of a model on several devices."""


class Framework(ABC):
    """What is audited, as the checks see it.

    Args:
        model: whose parameters are trained.
        examples: of the training data, as the collate takes them.
        held_out: of the evaluation's data; the training's, if there is none.
        settings: see there.
    """

    framework: str

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Any],
        held_out: Sequence[Any],
        settings: Settings,
    ) -> None:
        if not examples:
            raise UserError("there is no example to audit with: give training data")
        wrapped = next((p for p in model.modules() if type(p).__name__ in WRAPPERS), None)
        if wrapped is not None:
            raise UserError(
                f"audit the model without its {type(wrapped).__name__}: the audit starts processes "
                "itself"
            )
        self.model = model
        self.settings = settings
        self.seed = 0
        """Of all that draws at random."""
        self._examples = examples
        self.held_out = list(held_out or examples)[:HELD_OUT]
        self.target: tuple[str, dict[str, Any]] | None = None
        """The function of the user's that made it, and what was said beside it."""
        self.on_processes: dict[str, Step] | Exception | None = None
        """See `ranks.on_processes`."""

    @abstractmethod
    def collate(self, examples: Sequence[Any]) -> Any:
        """The batch that the user's own code makes of some examples."""

    @abstractmethod
    def step(self, micro_batches: Sequence[Any], ranks: int = 1) -> Step:
        """One optimizer step over micro-batches of this rank, as the framework makes it.

        The weights stay as they are.
        """

    def evaluate(
        self, batch_size: int, ranks: int = 1, first: int | None = None
    ) -> dict[str, float]:
        """What the framework's evaluation says of `held_out`, which it deals out to the ranks.

        Args:
            batch_size: examples of a batch.
            ranks: of this job.
            first: how many of the examples; None for all.

        Raises:
            NotApplicableError: there is no evaluation.
        """
        raise NotApplicableError(f"{self.framework} has no evaluation that could be seen")

    def resumed(self, folder: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weights of a run that was never broken off, and of one that was, in mid-epoch.

        Raises:
            NotApplicableError: nothing saves and resumes.
        """
        raise NotApplicableError(f"{self.framework} saves nothing from which a run could go on")

    @contextmanager
    def smoothed(self, amount: float) -> Iterator[None]:
        """With label smoothing in the loss.

        Raises:
            NotApplicableError: nobody knows how to switch it on.
        """
        raise NotApplicableError(f"{self.framework} has no switch for it")
        yield

    @property
    def deals_short_batches(self) -> bool:
        """True if some micro-batches have fewer examples than others, as a last one has."""
        return True

    @contextmanager
    def clipped(self, norm: float) -> Iterator[None]:
        """With gradients clipped to a norm, of a whole step.

        Raises:
            NotApplicableError: nobody knows how to switch it on.
        """
        raise NotApplicableError(f"{self.framework} has no switch for it")
        yield

    def dealt(self, epoch: int) -> Dealt:
        """Which examples an epoch of training has, in its order.

        Raises:
            NotApplicableError: nothing says it.
        """
        raise NotApplicableError(f"which examples an epoch of {self.framework} has can't be seen")

    @contextmanager
    def opened(self) -> Iterator[None]:
        """While the checks are made; afterwards all is as it was."""
        yield

    @contextmanager
    def other_randomness(self) -> Iterator[None]:
        """With another seed."""
        self.seed += 1
        try:
            yield
        finally:
            self.seed -= 1

    def optimized(self) -> set[str] | None:
        """Names of the parameters that the optimizer is given; None if nobody knows."""
        return None

    def logits(self, batch: Any) -> Tensor:
        """(B, T, V) of a batch.

        Raises:
            NotApplicableError: the model's output has none.
        """
        raise NotApplicableError("the model's output has no logits that could be found")

    @property
    def smoothing(self) -> float | None:
        """Label smoothing in a cross-entropy; None if the loss may be another."""
        return None

    @property
    def tokenizer(self) -> Any:
        """Has `eos_token_id` and `decode`; None if there is none."""
        return self.settings.tokenizer
