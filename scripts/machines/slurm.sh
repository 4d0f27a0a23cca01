#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=8 --gpus-per-node=8
#SBATCH --signal=USR1@120 --requeue --open-mode=append
# RUN=/shared/run sbatch scripts/machines/slurm.sh OVERRIDES
srun --kill-on-bad-exit=1 python -m train hydra.run.dir="$RUN" resume=auto "$@"
