"""How the processes of a run work together (alone, DDP, FSDP), and who started them."""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from omegaconf import DictConfig
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from everytoken.errors import UserError
from everytoken.run.checkpoint_file import verify
from everytoken.runtime.launch import process_count
from everytoken.runtime.together import together
from everytoken.runtime.world import World, world
from everytoken.training.double import Double


class Patient(Strategy):
    """Ranks that wait for the one which writes a checkpoint as long as it writes."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """As the strategy that this is mixed into; all ranks are done when one is."""
        with together(f"saving {filepath}"):
            super().save_checkpoint(checkpoint, filepath, storage_options)


class Replicas(Patient, DDPStrategy):
    """The whole model on each rank."""


class Sharding(Patient, ModelParallelStrategy):
    """The model sharded over all ranks; its checkpoints are files like those of any other run.

    Args:
        ranks: of all machines.
        timeout: how long a rank may wait for the others.
    """

    def __init__(self, ranks: int, timeout: timedelta) -> None:
        # Lightning's own default shards over nodes only, and splits tensors inside a node.
        super().__init__(
            data_parallel_size=ranks,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timeout,
        )

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Each rank takes its shards out of the file, which is verified first.

        Lightning takes the optimizer's numbers of weights for places in the model, where all but
        its own sharded checkpoints have them as places in the optimizer.
        """
        verify(path := Path(checkpoint_path))
        checkpoint = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
        model, module = self.model, self.lightning_module
        assert model is not None
        assert module is not None
        options = StateDictOptions(
            full_state_dict=True, broadcast_from_rank0=True, strict=module.strict_loading
        )
        set_model_state_dict(model, checkpoint.pop("state_dict"), options=options)
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            named = by_name(saved, optimizer, model)
            set_optimizer_state_dict(model, optimizer, named, options=options)
        return checkpoint


def by_name(saved: Mapping[str, Any], optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """The state of an optimizer with names of weights in the place of their numbers.

    Args:
        saved: what `Optimizer.state_dict` gave, whatever it counts in.
        optimizer: one of the same groups.
        model: whose weights it moves.
    """
    names = {id(weight): name for name, weight in model.named_parameters()}
    pairs = zip(saved["param_groups"], optimizer.param_groups, strict=True)
    groups = [(old, [names[id(weight)] for weight in new["params"]]) for old, new in pairs]
    renamed = {n: name for old, new in groups for n, name in zip(old["params"], new, strict=True)}
    return {
        "state": {renamed[number]: state for number, state in saved["state"].items()},
        "param_groups": [old | {"params": new} for old, new in groups],
    }


class Started(ClusterEnvironment):
    """Ranks that exist already, on machines with as many of them as they like."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    @property
    def creates_processes_externally(self) -> bool:
        """Lightning starts none."""
        return True

    @property
    def main_address(self) -> str:
        """Where `launch` has them meet; others have met already."""
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        """Of that place."""
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        """True in a rank."""
        return world() is not None

    def world_size(self) -> int:
        """Ranks of all machines."""
        return self.world.size

    def set_world_size(self, size: int) -> None:
        """It is what it is."""

    def global_rank(self) -> int:
        """Of this process."""
        return self.world.rank

    def set_global_rank(self, rank: int) -> None:
        """It is what it is."""

    def local_rank(self) -> int:
        """Among those of its machine."""
        return self.world.local_rank

    def node_rank(self) -> int:
        """Number of its machine."""
        return self.world.node


class Alone(LightningEnvironment):
    """One process that nobody started as a rank, nor is one after a fit."""

    def teardown(self) -> None:
        """Lightning leaves a half of what it has set, and the next fit would be told so."""
        super().teardown()
        os.environ.pop("LOCAL_RANK", None)


def environment() -> ClusterEnvironment:
    """Who started the ranks. Lightning would take SLURM for it inside of any job."""
    here = world()
    return Alone() if here is None else Started(here)


def strategy(trainer: DictConfig) -> Strategy | str:
    """How ranks work together, for Lightning's Trainer: "auto" if there is only one."""
    timeout = timedelta(seconds=trainer.hang_timeout)
    here = world()
    ranks = process_count(trainer) if here is None else here.size
    if trainer.strategy == "fsdp":
        strategy = Sharding(ranks, timeout)
        strategy.cluster_environment = environment()
        return strategy
    if ranks == 1 and here is None:
        return "auto"  # nobody to exchange gradients with
    return Replicas(
        gradient_as_bucket_view=True, timeout=timeout, cluster_environment=environment()
    )


def machine_arguments(cfg: DictConfig) -> dict[str, Any]:
    """The trainer's arguments about devices and precision.

    Raises:
        UserError: a precision that the device doesn't have.
    """
    accelerator = cfg.trainer.accelerator
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cpu" and cfg.precision.mode == "16-mixed":
        raise UserError("precision=fp16 needs a CUDA GPU: use precision=bf16 or precision=fp32")
    ways, here = strategy(cfg.trainer), world()
    mode = cfg.precision.mode
    plugins = [environment()] if ways == "auto" else []
    return {
        "accelerator": accelerator,
        "devices": here.local_size if here else cfg.trainer.devices,
        "num_nodes": here.nodes if here else 1,
        "strategy": ways,
        "plugins": [*plugins, Double()] if mode == "64-true" else plugins,
        "precision": None if mode == "64-true" else mode,
        "use_distributed_sampler": False,  # our own samplers deal out the examples
        "enable_progress_bar": False,  # `TrainingProgress` draws it
        "enable_model_summary": False,
    }
