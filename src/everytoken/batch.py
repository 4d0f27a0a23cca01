"""`Batch`: the one object that crosses from data to model.

Made by `collate`, taken apart by `unpad`. Which positions are real is known from `lengths` alone,
never from token ids, so the id that stands in the padding may also be a real token.

Shapes: B sequences, T positions (padded), S source positions (padded), M target tokens, C classes.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

IGNORE_INDEX = -100
"""Label of a position that is not to be predicted."""

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True)
class References:
    """What evaluation compares the rows of a micro-batch with."""

    texts: list[str | None]
    """The answer of each row as the corpus has it; None where no text of the corpus is it."""
    prompts: list[int]
    """How many inputs of each row generation starts from."""
    byte_count: int
    """UTF-8 bytes of text that the rows' targets stand for."""
    longest: int
    """Tokens of the longest answer of the whole split, the end included."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One micro-batch of padded sequences. Build it with `Batch.make`, which checks and counts.

    The counts are Python integers, known before the batch goes to the device: whoever needs a size
    there need not wait for the device to answer.
    """

    input_ids: Tensor
    """(B, T) int64: what the model reads."""
    labels: Tensor
    """(B, T) int64: what it must predict at each position, already aligned, or IGNORE_INDEX."""
    lengths: Tensor
    """(B,) int64: real tokens of each row."""
    source_ids: Tensor | None
    """(B, S) int64: what the encoder reads; None without an encoder."""
    source_lengths: Tensor | None
    """(B,) int64: real tokens of each source row."""
    padding_side: PaddingSide
    """Where the padding stands, in inputs, labels and sources alike."""
    input_count: int
    """Real tokens in `input_ids`."""
    source_count: int
    """Real tokens in `source_ids`."""
    target_count: int
    """M: labels that are not IGNORE_INDEX."""
    indices: Tensor | None
    """(B,) int64: which example of the split each row is; None if they are of no split."""
    is_filler: bool
    """True if this only keeps a rank in step: its tokens are no data and don't count as real."""
    references: References | None
    """For evaluation, where the corpus is known."""
    classes: Tensor | None = None
    """(B, C) int64: 1 for each class that a row is of, else 0, where a row may be of several: what
    its target is, whatever its label. None if a label says all of a target."""
    prefix_lengths: Tensor | None = None
    """(B,) int64: how many of each row's first tokens see each other both ways, where a decoder
    can let them; None for a decoder that sees what came before only."""

    @classmethod
    def make(
        cls,
        *,
        input_ids: Tensor,
        labels: Tensor,
        lengths: Tensor,
        source_ids: Tensor | None = None,
        source_lengths: Tensor | None = None,
        padding_side: PaddingSide = "right",
        indices: Tensor | None = None,
        is_filler: bool = False,
        references: References | None = None,
        classes: Tensor | None = None,
        prefix_lengths: Tensor | None = None,
    ) -> "Batch":
        """Check the fields against each other and count their tokens.

        Raises:
            ValueError: shapes don't fit, a length is out of range, or a target stands on padding.
        """
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side must be 'left' or 'right', got {padding_side!r}")
        _check_rows("input_ids", input_ids, "lengths", lengths)
        if labels.shape != input_ids.shape:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}, input_ids {tuple(input_ids.shape)}: "
                "give one label per input position (IGNORE_INDEX where there is none)"
            )
        if (source_ids is None) != (source_lengths is None):
            raise ValueError("source_ids and source_lengths go together: give both or neither")
        if source_ids is not None and source_lengths is not None:
            _check_rows("source_ids", source_ids, "source_lengths", source_lengths)
            if len(source_ids) != len(input_ids):
                raise ValueError(
                    f"source_ids have {len(source_ids)} rows, input_ids {len(input_ids)}: "
                    "give one source per sequence"
                )
        if indices is not None and indices.shape != lengths.shape:
            raise ValueError(
                f"indices have shape {tuple(indices.shape)}, lengths {tuple(lengths.shape)}: "
                "give one index per sequence"
            )
        if classes is not None and classes.shape[:1] != lengths.shape:
            raise ValueError(
                f"classes have shape {tuple(classes.shape)}, lengths {tuple(lengths.shape)}: "
                "give a row of classes per sequence"
            )
        if prefix_lengths is not None and not bool((prefix_lengths <= lengths).all()):
            raise ValueError("a prefix is longer than its row: prefix_lengths are part of lengths")
        is_target = labels != IGNORE_INDEX
        if bool((is_target & ~real_positions(lengths, input_ids.shape[1], padding_side)).any()):
            raise ValueError(
                f"labels hold a target on a padded position: set it to {IGNORE_INDEX}, "
                "or correct lengths"
            )
        return cls(
            input_ids=input_ids,
            labels=labels,
            lengths=lengths,
            source_ids=source_ids,
            source_lengths=source_lengths,
            padding_side=padding_side,
            input_count=int(lengths.sum()),
            source_count=0 if source_lengths is None else int(source_lengths.sum()),
            target_count=int(is_target.sum()),
            indices=indices,
            is_filler=is_filler,
            references=references,
            classes=classes,
            prefix_lengths=prefix_lengths,
        )

    @property
    def real_count(self) -> int:
        """Real tokens, inputs and sources together; 0 for a filler."""
        return 0 if self.is_filler else self.unpadded_count

    @property
    def unpadded_count(self) -> int:
        """Positions without padding, inputs and sources together; a filler's own included."""
        return self.input_count + self.source_count

    @property
    def padded_count(self) -> int:
        """Positions with their padding, inputs and sources together."""
        return self.input_ids.numel() + (0 if self.source_ids is None else self.source_ids.numel())

    @property
    def is_real(self) -> Tensor:
        """(B, T) bool: True where `input_ids` is not padding."""
        return real_positions(self.lengths, self.input_ids.shape[1], self.padding_side)

    @property
    def is_target(self) -> Tensor:
        """(B, T) bool: True where there is a label to predict."""
        return self.labels != IGNORE_INDEX

    @property
    def targets(self) -> Tensor:
        """(M,) int64: the labels to predict, row by row; or (M, C), of several classes a row."""
        flat, width = self.labels.flatten(), self.labels.shape[1]
        places = true_indices(flat != IGNORE_INDEX, self.target_count)
        return flat[places] if self.classes is None else self.classes[places // width]

    @property
    def first_side(self) -> tuple[Tensor, Tensor]:
        """Ids and is_real of what a reader sees first: the source if there is one, or the input."""
        if self.source_ids is None or self.source_lengths is None:
            return self.input_ids, self.is_real
        width = self.source_ids.shape[1]
        return self.source_ids, real_positions(self.source_lengths, width, self.padding_side)

    def to(self, device: torch.device | str) -> "Batch":
        """This batch on another device; the copy to a GPU runs in the background."""
        # To the CPU it must not: it could be read before it is there.
        to_gpu = torch.device(device).type == "cuda"
        return self._map(lambda tensor: tensor.to(device, non_blocking=to_gpu))

    def pin_memory(self) -> "Batch":
        """This batch in page-locked memory, from where copies to a GPU run in the background."""
        return self._map(Tensor.pin_memory)

    def _map(self, change) -> "Batch":
        tensors = {name: v for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items()})

    def __repr__(self) -> str:
        source = "" if self.source_ids is None else f", source {tuple(self.source_ids.shape)}"
        return (
            f"Batch({tuple(self.input_ids.shape)}{source}, {self.real_count} real tokens, "
            f"{self.target_count} targets{', filler' if self.is_filler else ''})"
        )


def real_positions(lengths: Tensor, width: int, padding_side: PaddingSide) -> Tensor:
    """(B, width) bool: True where a row of `lengths` (B,) tokens has no padding."""
    position = torch.arange(width, device=lengths.device)
    if padding_side == "left":
        return position >= width - lengths[:, None]
    return position < lengths[:, None]


def select(ids: Tensor, keep: Tensor) -> list[list[int]]:
    """Rows of ids (B, T) without the positions where keep (B, T) is False."""
    return [row[kept].tolist() for row, kept in zip(ids, keep, strict=True)]


def true_indices(mask: Tensor, count: int) -> Tensor:
    """(count,) int64: where the flat `mask` is True. `count` spares the device a round trip."""
    return torch.nonzero_static(mask, size=count).squeeze(1)


def _check_rows(ids_name: str, ids: Tensor, lengths_name: str, lengths: Tensor) -> None:
    if ids.ndim != 2 or lengths.shape != ids.shape[:1]:
        raise ValueError(
            f"{ids_name} has shape {tuple(ids.shape)} and {lengths_name} {tuple(lengths.shape)}: "
            "expected (rows, positions) and (rows,)"
        )
    if len(lengths) and not 0 <= int(lengths.min()) <= int(lengths.max()) <= ids.shape[1]:
        raise ValueError(
            f"{lengths_name} must lie between 0 and {ids.shape[1]}, the width of {ids_name}; "
            f"got {int(lengths.min())} to {int(lengths.max())}"
        )
