#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=8 --gpus-per-node=8
#SBATCH --signal=USR1@120 --requeue --open-mode=append
# RUN=/shared/run sbatch scripts/machines/slurm.sh OVERRIDES
# A job array (sbatch --array=…) has a run for each of its tasks, in the folder RUN.
if [ -z "${RUN:-}" ]; then
  echo "error: set RUN, a run directory that all nodes see: RUN=/shared/run sbatch …" >&2
  exit 2
fi
srun --kill-on-bad-exit=1 python -m train \
  hydra.run.dir="$RUN${SLURM_ARRAY_TASK_ID:+/$SLURM_ARRAY_TASK_ID}" resume=auto "$@"
