"""How the processes of a run work together (alone, DDP, FSDP), and who started them."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from omegaconf import DictConfig

from everytoken.run.checkpoint_file import verify
from everytoken.runtime.launch import process_count
from everytoken.runtime.world import World, world


class Sharding(ModelParallelStrategy):
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
        """Each rank takes its shards out of the file, which is verified first."""
        verify(Path(checkpoint_path))
        return super().load_checkpoint(checkpoint_path, weights_only=True)


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


def environment() -> ClusterEnvironment:
    """Who started the ranks. Lightning would take SLURM for it inside of any job."""
    here = world()
    return LightningEnvironment() if here is None else Started(here)


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
    return DDPStrategy(
        gradient_as_bucket_view=True, timeout=timeout, cluster_environment=environment()
    )
