"""Jobs of a sweep: which it belongs to, and what tells it from the others."""

from typing import NamedTuple

import yaml

from everytoken.run.directory import Run

MULTIRUN = "multirun.yaml"
"""What Hydra writes into the folder of a sweep, whose folders are its jobs."""


class Job(NamedTuple):
    """One job of a sweep."""

    sweep: str
    """The name of the sweep's folder."""
    settings: str
    """Those that were chosen for this job, as in "seed=2 model=small"."""


def job_of(run: Run) -> Job | None:
    """The job that a run is; None if it is of no sweep."""
    folder = run.path.resolve().parent
    try:
        typed = yaml.safe_load((folder / MULTIRUN).read_text(encoding="utf-8"))
        shared = set(typed["hydra"]["overrides"]["task"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return None  # a run of its own, or beside something that isn't Hydra's
    own = run.identity.get("overrides") or []
    return Job(folder.name, " ".join(word for word in own if word not in shared))
