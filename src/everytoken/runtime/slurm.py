"""SLURM: put the job back into the queue once it has stopped."""

import os
import re
import subprocess
import sys

from everytoken.errors import PREEMPTED, TERMINATED
from everytoken.runtime.signals import Stopped, stop_requests


def requeue_if_preempted(left: BaseException, rank: int) -> None:
    """After SIGUSR1 (sbatch --signal), have SLURM start this job again, and say so.

    After SIGTERM too, if it came since another job goes before this one, and not from scancel:
    SLURM itself queues again only what it had to kill. Nothing happens outside of SLURM. A job that
    submitit started (launcher=slurm) is left to it: it counts how often.

    Args:
        left: how the job ended here.
        rank: of this process. All know of it if ranks stop together; one that leaves alone takes
            the others with it, so it can't leave this to rank 0.
    """
    code = left.code if isinstance(left, SystemExit) else None
    if code != PREEMPTED and not (code == TERMINATED and _is_preempted()):
        return
    if rank > 0 and isinstance(left, Stopped) and left.agreed:
        return
    if code == PREEMPTED and (resubmit := stop_requests.former_handler(PREEMPTED)):
        resubmit()
    elif job := job_id():
        failed, _ = _scontrol("requeue", job)
        said = f"could not be put back into the queue: {failed}" if failed else "is queued again"
        print(f"SLURM job {job} {said}", file=sys.stderr)


def is_queued_again() -> bool:
    """True in a job that SLURM has started before, and starts again with the same command."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def _is_preempted() -> bool:
    """True if SLURM says that it takes this job's machines for another one."""
    job = job_id()
    if job is None:
        return False
    _, said = _scontrol("show", "job", job)
    time = re.search(r"\bPreemptTime=(\S+)", said)
    return time is not None and time[1] not in ("None", "Unknown", "N/A")


def _scontrol(*words: str) -> tuple[str, str]:
    """Why it failed, "" if it didn't; and what it printed."""
    try:
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error), ""
    failed = done.returncode and (done.stderr.strip() or f"exit code {done.returncode}")
    return failed or "", done.stdout


def job_id() -> str | None:
    """What scontrol calls this job; None outside of SLURM."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")
