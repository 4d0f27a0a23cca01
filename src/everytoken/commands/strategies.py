"""How ranks share a model, by Lightning's strategies, and how its checkpoints are written and read.

Whatever wrote a checkpoint, in one file or in shards, on however many ranks: its names and numbers
are those of a run in one process, and any other reads it.
"""

import secrets
from collections.abc import Mapping
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, distributed
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from everytoken.run.checkpoint_file import CheckpointFiles, verify, write
from everytoken.run.shard_writer import Files, Saving, Writer
from everytoken.run.shards import FOLDER, KEY, Shards, drop_unused, mapped
from everytoken.runtime.memory import give_back
from everytoken.runtime.together import together
from everytoken.training.distributed import shape_of, take_part, whole

SHARDED_ABOVE = 1 << 30
"""Bytes of tensors from which on each rank writes its own, unless it is said otherwise."""

GROUP_TIMEOUT = timedelta(days=1)
"""For ranks that wait for each other's shards: `together` knows if one hangs."""


class Patient(Strategy):
    """Ranks that wait for the one which writes or reads a checkpoint as long as it does."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """As the strategy that this is mixed into; all ranks are done when one is."""
        with together(f"saving {filepath}"):
            super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """As `read`; all ranks are done when one is."""
        with together(f"reading {checkpoint_path}"):
            return self.read(checkpoint_path, weights_only)

    def read(self, path: str | Path, weights_only: bool | None) -> dict[str, Any]:
        """As the strategy that this is mixed into."""
        return super().load_checkpoint(path, weights_only)


class Replicas(Patient, DDPStrategy):
    """The whole model on each rank."""


class Sharding(Patient, ModelParallelStrategy):
    """The model sharded over all ranks.

    Args:
        ranks: of all machines.
        tensor_parallel: so many of them split the matrices of each block, and read the same.
        timeout: how long a rank may wait for the others.
        in_shards: True for sharded checkpoints, False for files that rank 0 writes; "auto" for
            shards where there is much.
        in_background: True to train on while shards are written.
    """

    def __init__(
        self,
        ranks: int,
        timeout: timedelta,
        *,
        tensor_parallel: int = 1,
        in_shards: bool | Literal["auto"] = "auto",
        in_background: bool = True,
    ) -> None:
        super().__init__(
            data_parallel_size=ranks // tensor_parallel,
            tensor_parallel_size=tensor_parallel,
            save_distributed_checkpoint=False,
            timeout=timeout,
        )
        self.tensor_parallel = tensor_parallel
        self.in_shards = in_shards
        self.in_background = in_background
        self.group: Any = None
        self.loaded: Shards | None = None
        self.places: dict[int, str] = {}

    # Saving

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """As the module has it: sharded, and what is tied the same object."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict(keep_vars=True)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Sharded, with the numbers of weights that the optimizer itself counts in."""
        return Strategy.optimizer_state(self, optimizer)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Write it in one file, or begin to write shards."""
        path, files = Path(self.broadcast(filepath)), self.checkpoint_io
        if isinstance(files, CheckpointFiles):
            files.wait()
            tensors = _sharded(checkpoint)
            total = sum(tensor.nbytes for tensor in {id(t): t for t in tensors.values()}.values())
            if self.in_shards is True or (self.in_shards == "auto" and total > SHARDED_ABOVE):
                files.saving = self._begin(checkpoint, tensors, path, files.keep.get(path, 1))
                if not self.in_background:
                    files.wait()
                return
        super().save_checkpoint(self._gathered(checkpoint), path, storage_options)
        give_back()

    def _begin(
        self, checkpoint: dict[str, Any], tensors: dict[str, DTensor], path: Path, keep: int
    ) -> Saving:
        if self.group is None:
            self.group = distributed.new_group(backend="gloo", timeout=GROUP_TIMEOUT)
        assert isinstance(self.group, distributed.ProcessGroup)
        name = f"{path.stem}-{checkpoint['global_step']}-{self.broadcast(secrets.token_hex(4))}"
        first = {id(tensor): place for place, tensor in reversed(tensors.items())}
        same = {place: first[id(tensor)] for place, tensor in tensors.items()}
        same = {place: other for place, other in same.items() if place != other}
        index = mapped(checkpoint, _left_out) if self.is_global_zero else {}

        def commit(files: Files) -> None:
            write(index | {KEY: {"folder": name, "files": files, "same": same}}, path, keep)
            drop_unused(path.parent)

        once = {place: tensor.detach() for place, tensor in tensors.items() if place not in same}
        writer = Writer(path.parent / FOLDER / name, commit)
        return Saving.begin(path, once, writer, self.group, copied=self.in_background)

    def _gathered(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """On rank 0 the whole checkpoint; others give it their shards, a tensor at a time."""
        found: dict[int, Tensor] = {}

        def gather(place: str, tensor: Tensor) -> Tensor | None:
            if not isinstance(tensor, DTensor):
                return tensor.detach()
            if id(tensor) not in found:
                full = whole(tensor).detach()
                found[id(tensor)] = full.cpu() if self.is_global_zero else full.new_empty(0)
            return found[id(tensor)]

        return mapped(checkpoint, gather)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        """Not before what is being saved has been copied."""
        if isinstance(files := self.checkpoint_io, CheckpointFiles):
            files.wait_until_copied()
        return super().optimizer_step(*args, **kwargs)

    # Loading

    @property
    def lightning_restore_optimizer(self) -> bool:
        """When the callbacks have seen the optimizer as the config makes it."""
        return True

    def read(self, path: str | Path, weights_only: bool | None) -> dict[str, Any]:
        """What is in it, verified; of tensors only where they are."""
        verify(path := Path(path))
        checkpoint = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
        self.loaded = Shards.of(checkpoint, path)
        self.places = {id(tensor): place for place, tensor in _tensors(checkpoint).items()}
        return checkpoint

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each rank takes its shards of the weights."""
        assert self.lightning_module is not None
        own, saved = self.lightning_module.state_dict(), checkpoint["state_dict"]
        if strict and (odd := own.keys() ^ saved.keys()):
            raise KeyError(f"{sorted(odd)[0]} is in one of the model and its checkpoint only")
        self._fill([(own[name], saved[name]) for name in own if name in saved])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """And of the optimizers' state."""
        assert self.model is not None
        states = zip(self.optimizers, checkpoint["optimizer_states"], strict=True)
        for optimizer, saved in states:
            get_optimizer_state_dict(self.model, optimizer)  # makes what isn't there before a step
            weights = chain.from_iterable(group["params"] for group in optimizer.param_groups)
            numbers = chain.from_iterable(group["params"] for group in saved["param_groups"])
            pairs = dict(zip(numbers, weights, strict=True))
            state = {n: dict(values) for n, values in saved["state"].items()}
            holes = []
            for n, values in state.items():
                for key, value in values.items():
                    if isinstance(own := optimizer.state[pairs[n]].get(key), DTensor):
                        holes.append((own, value))
                        values[key] = own
            self._fill(holes)
            optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})

    def _fill(self, tensors: list[tuple[Tensor, Tensor]]) -> None:
        """Give own tensors the saved values; or those in the shards, if these are empty."""
        for own, saved in tensors:
            if saved.is_meta:
                continue
            take_part(own, saved)
        if self.loaded is not None:
            empty = [(own, saved) for own, saved in tensors if saved.is_meta]
            self.loaded.fill({self.places[id(saved)]: own for own, saved in empty})


def _tensors(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Those of a checkpoint, by place."""
    found: dict[str, Tensor] = {}
    mapped(checkpoint, found.__setitem__)
    return found


def _sharded(checkpoint: dict[str, Any]) -> dict[str, DTensor]:
    return {p: t for p, t in _tensors(checkpoint).items() if isinstance(t, DTensor)}


def _left_out(place: str, tensor: Tensor) -> Tensor:
    """As an index has it: shape and dtype only, or a copy of what isn't sharded."""
    if isinstance(tensor, DTensor):
        return torch.empty(shape_of(tensor), dtype=tensor.dtype, device="meta")
    return tensor.detach().cpu().clone()
