"""The door to a bare loop: any function from a batch to a loss."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from everytoken.audit.foreign.borrowed import trainable
from everytoken.audit.foreign.door import Door
from everytoken.audit.foreign.loaders import Dealt, dealt, is_loader, read
from everytoken.audit.foreign.terms import NotApplicableError, Settings, Step, seeded
from everytoken.errors import UserError

NO_LOSS = "step must return one loss that has a gradient: no backward, no item(), not one a token"


class LoopDoor(Door):
    """See `Door`.

    Args:
        step: batch → loss (), or (loss, model).
        batches: examples; or, without `collate`, ready batches, of which the first is looked at.
        collate: examples → a batch.
        model: whose parameters are trained; None for what `step` returns.
        accumulate: micro-batches → the loss that is logged, or None; it does all backwards of an
            optimizer step. None for the usual: each micro-batch's loss, divided by their number.
        evaluate: batches → the loss of an evaluation over all of them.
        settings: see `Settings`.
    """

    framework = "a bare loop"

    def __init__(
        self,
        step: Callable[[Any], Any],
        batches: Iterable[Any],
        collate: Callable[[list[Any]], Any] | None = None,
        model: nn.Module | None = None,
        accumulate: Callable[[list[Any]], Any] | None = None,
        evaluate: Callable[[list[Any]], Any] | None = None,
        settings: Settings | None = None,
    ) -> None:
        examples, self._collate = read(batches) if collate is None else (list(batches), collate)
        self._loader: Any = batches
        self._loss = step
        self._accumulate = accumulate
        self._evaluate = evaluate
        if model is None:
            with seeded(), torch.no_grad():
                found = step(self._collate(examples[:1])) if examples else None
            if not isinstance(found, tuple) or not isinstance(found[-1], nn.Module):
                raise UserError("give the audit model=…, or let step return (loss, model)")
            model = found[-1]
        super().__init__(model, examples, [], settings or Settings())

    def collate(self, examples: Sequence[Any]) -> Any:
        """The user's, or rows of a ready batch beside each other."""
        return self._collate([*examples])

    def step(self, micro_batches: Sequence[Any], ranks: int = 1) -> Step:
        """Backwards of all micro-batches; among ranks gradients are averaged, as DDP does."""
        named = trainable(self.model)
        losses: list[float] = []
        logged: dict[str, float] = {}
        self.model.zero_grad()
        with seeded(self.seed):
            if self._accumulate is not None:
                found = self._accumulate([*micro_batches])
                if found is not None:
                    logged["loss"] = float(found)
                    losses = [logged["loss"]] * (len(micro_batches) == 1)
            else:
                for batch in micro_batches:
                    loss = self.loss(batch)
                    _backward(loss / len(micro_batches))
                    losses.append(float(loss.detach()))
        gradients = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in named.items()
        }
        self.model.zero_grad()
        if ranks > 1:
            for gradient in gradients.values():
                torch.distributed.all_reduce(gradient)
                gradient /= ranks
        return Step(gradients, losses, logged)

    @property
    def deals_short_batches(self) -> bool:
        """Of a loop that has no loader nobody knows it."""
        return is_loader(self._loader) and not self._loader.drop_last

    def dealt(self, epoch: int) -> Dealt:
        """By the loader that was given as `batches`."""
        return dealt(self._loader, epoch)

    def loss(self, batch: Any) -> Tensor:
        """What `step` makes of a batch, ()."""
        found = self._loss(batch)
        loss = found[0] if isinstance(found, tuple) else found
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise UserError(NO_LOSS)
        return loss

    def evaluate(
        self, batch_size: int, ranks: int = 1, first: int | None = None
    ) -> dict[str, float]:
        """The user's, over the same examples in batches of a size."""
        if self._evaluate is None:
            raise NotApplicableError("give evaluate=…, a function from batches to their loss")
        if ranks > 1:
            raise NotApplicableError("how a bare loop evaluates on several processes is its own")
        some = self.held_out[:first]
        with seeded(self.seed), torch.no_grad():
            found = self._evaluate(
                [self.collate(some[i : i + batch_size]) for i in range(0, len(some), batch_size)]
            )
        return (
            {k: float(v) for k, v in found.items()}
            if isinstance(found, Mapping)
            else {"loss": float(found)}
        )

    def logits(self, batch: Any) -> Tensor:
        """By the model itself, if its inputs are a dict's."""
        if not isinstance(batch, Mapping):
            raise NotApplicableError("how the model is called is the loop's own")
        return logits_of(self.model(**batch))


def _backward(loss: Tensor) -> None:
    try:
        loss.backward()
    except RuntimeError as error:
        if "a second time" in str(error):
            raise UserError(NO_LOSS) from error
        raise


def logits_of(output: Any) -> Tensor:
    """(B, T, V) in what a model returned.

    Raises:
        NotApplicableError: there are none.
    """
    found = output["logits"] if isinstance(output, Mapping) and "logits" in output else output
    if not isinstance(found, Tensor) or found.ndim != 3:
        raise NotApplicableError("the model's output has no logits that could be found")
    return found
