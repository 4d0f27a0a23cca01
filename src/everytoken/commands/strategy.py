"""How the processes of a run work together (alone, DDP, FSDP), and who started them."""

import os
from datetime import timedelta
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import Strategy
from omegaconf import DictConfig

from everytoken.commands.strategies import Replicas, Sharding
from everytoken.errors import UserError
from everytoken.runtime.console import warn
from everytoken.runtime.launch import process_count
from everytoken.runtime.settings import check_tensor_parallel
from everytoken.runtime.world import World, world
from everytoken.training.double import Double


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
        check_tensor_parallel(trainer.tensor_parallel, ranks)
        strategy = Sharding(
            ranks,
            timeout,
            tensor_parallel=trainer.tensor_parallel,
            in_shards=trainer.sharded_checkpoints,
            in_background=trainer.async_checkpoints,
        )
        strategy.cluster_environment = environment()
        return strategy
    if trainer.sharded_checkpoints is True:  # of a run that goes on elsewhere, say
        warn("trainer.sharded_checkpoints=true acts with trainer=fsdp only: one file is written")
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
