"""Which of a batch's tensors is what: by its name, or by what the user says."""

from collections.abc import Mapping
from typing import Any

import torch

from everytoken.audit.foreign.batches import Place, tensors
from everytoken.errors import UserError

NAMES = {
    "inputs": ("input_ids", "inputs", "tokens", "ids", "source_ids", "source", "src", "x"),
    "labels": ("labels", "label", "targets", "target", "tgt", "y"),
    "mask": ("attention_mask", "mask", "padding_mask", "source_mask", "src_mask"),
    "positions": ("position_ids", "positions"),
}
"""What a batch's tensors are called, by what they are."""

READ = (*NAMES["inputs"], "decoder_input_ids")
"""Names of the tensors whose values are token ids to read."""


def place_of(role: str, batch: Any, given: Mapping[str, Any]) -> Place | None:
    """Where the tensor of a role is in a batch; None if it can't be recognised.

    Args:
        role: of NAMES.
        batch: of any form.
        given: places that the user names, by role.

    Raises:
        UserError: the batch has no such tensor.
    """
    found = tensors(batch)
    if role in given:
        wanted = given[role] if isinstance(given[role], tuple) else (given[role],)
        if wanted not in found:
            shown = ", ".join(".".join(map(str, place)) for place in found)
            raise UserError(f"fields: the batch has no tensor {given[role]!r}, but {shown}")
        return wanted
    named = [place for name in NAMES[role] for place in found if place[-1:] == (name,)]
    if named:
        return named[0]
    whole = [p for p, t in found.items() if not t.is_floating_point() and t.dtype != torch.bool]
    if len(whole) == len(found) == 2 and all(p and isinstance(p[-1], int) for p in whole):
        return {"inputs": whole[0], "labels": whole[1]}.get(role)
    return None
