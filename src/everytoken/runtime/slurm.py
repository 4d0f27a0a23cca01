"""SLURM: put the job back into the queue once it has stopped."""

import os
import subprocess
import sys

from everytoken.errors import PREEMPTED
from everytoken.runtime.signals import Stopped, stop_requests


def requeue_if_preempted(left: BaseException, rank: int) -> None:
    """After SIGUSR1 (sbatch --signal), have SLURM start this job again, and say so.

    Nothing happens outside of SLURM. A job that submitit started (launcher=slurm) is left to it:
    it counts how often.

    Args:
        left: how the job ended here.
        rank: of this process. All know of it if ranks stop together; one that leaves alone takes
            the others with it, so it can't leave this to rank 0.
    """
    if not isinstance(left, SystemExit) or left.code != PREEMPTED:
        return
    if rank > 0 and isinstance(left, Stopped) and left.agreed:
        return
    if resubmit := stop_requests.former_handler(PREEMPTED):
        resubmit()
    elif job := job_id():
        try:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
            failed = done.returncode and (done.stderr.strip() or f"exit code {done.returncode}")
        except OSError as error:
            failed = str(error)
        said = f"could not be put back into the queue: {failed}" if failed else "is queued again"
        print(f"SLURM job {job} {said}", file=sys.stderr)


def job_id() -> str | None:
    """What scontrol calls this job; None outside of SLURM."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")
