"""How the processes of a run work together (alone, DDP, FSDP), and who started them."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from omegaconf import DictConfig

from everytoken.run.checkpoint_file import verify
from everytoken.runtime.launch import process_count
from everytoken.runtime.rank import is_launched


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


def strategy(trainer: DictConfig) -> Strategy | str:
    """The strategy of a trainer config, for Lightning's Trainer."""
    timeout = timedelta(seconds=trainer.hang_timeout)
    if trainer.strategy == "ddp":
        if not is_launched() and process_count(trainer) * trainer.num_nodes == 1:
            return "auto"  # nobody to exchange gradients with
        return DDPStrategy(
            gradient_as_bucket_view=True, timeout=timeout, cluster_environment=_cluster()
        )
    if trainer.strategy == "fsdp":
        strategy = Sharding(process_count(trainer) * trainer.num_nodes, timeout)
        strategy.cluster_environment = _cluster()
        return strategy
    return trainer.strategy


def _cluster() -> ClusterEnvironment:
    """Who started the ranks. Lightning would take SLURM for it inside of any job."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if is_launched() and "LOCAL_RANK" not in os.environ:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()
