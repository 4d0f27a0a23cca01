"""Muon for the matrices of the blocks, AdamW for all else, as one optimizer."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

IS_MATRIX = "is_matrix_of_blocks"
"""In each parameter group: True for Muon's."""


class Muon(Optimizer):
    """torch's Muon (Jordan et al. 2024) and torch's AdamW, over one list of parameter groups.

    So there is one state to save, one norm to clip and one schedule. AdamW has the embeddings, the
    output layer (whose rows are tokens, rare ones and frequent ones) and all that is no matrix.
    What a model keeps in one matrix, keys and values say, is one matrix here too.

    Args:
        params: parameter groups; each is split in two where it has both kinds.
        model: whose they are; `model.head` is its output layer.
        lr: of both.
        weight_decay: of both.
        momentum, nesterov, ns_steps: of Muon, as torch has them.
        adjust_lr_fn: "match_rms_adamw" makes Muon's steps as large as AdamW's usually are (Liu et
            al. 2025, eq. 4), so that one learning rate fits both; "original" as they were proposed.
        betas, eps, fused: of AdamW, as torch has them.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        model: nn.Module,
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        nesterov: bool,
        ns_steps: int,
        adjust_lr_fn: Literal["original", "match_rms_adamw"],
        betas: tuple[float, float],
        eps: float,
        fused: bool | None = None,
    ) -> None:
        both = {"lr": lr, "weight_decay": weight_decay}
        of_muon = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
        of_muon |= {"adjust_lr_fn": adjust_lr_fn}
        of_adamw = {"betas": betas, "eps": eps, "fused": fused}
        kinds = {True: (torch.optim.Muon, both | of_muon), False: (AdamW, both | of_adamw)}
        matrices = matrices_of_blocks(model)
        groups = [half for group in params for half in _halves(group, matrices)]
        for group in groups:
            group.update(kinds[group[IS_MATRIX]][1] | group)
        super().__init__(groups, {})
        # What was changed of it for a run that goes on is looked up here.
        self.defaults = both | of_muon | of_adamw
        self.parts = {
            is_matrix: kind(own, **settings)
            for is_matrix, (kind, settings) in kinds.items()
            if (own := self._groups(is_matrix))
        }

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for is_matrix, part in self.parts.items():
            # Anew each time: a state that is loaded replaces both.
            part.param_groups, part.state = self._groups(is_matrix), self.state
            part.step()
        return loss

    def _groups(self, is_matrix: bool) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group[IS_MATRIX] == is_matrix]


def matrices_of_blocks(model: nn.Module) -> set[int]:
    """The ids of a model's matrices that neither look up tokens nor make logits."""
    looked_up = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    head = [module for module in [getattr(model, "head", None)] if isinstance(module, nn.Module)]
    outside = {id(p) for module in (*looked_up, *head) for p in module.parameters()}
    return {id(p) for p in model.parameters() if p.ndim == 2} - outside


def _halves(group: dict[str, Any], matrices: set[int]) -> Iterator[dict[str, Any]]:
    """A group's matrices and its other parameters, as groups."""
    if IS_MATRIX in group:
        yield dict(group)
        return
    for is_matrix in (True, False):
        params = [
            p
            for p in group["params"]
            if (id(p[1] if isinstance(p, tuple) else p) in matrices) == is_matrix
        ]
        if params:
            yield {**group, "params": params, IS_MATRIX: is_matrix}
