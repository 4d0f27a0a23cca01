"""A study: trials one after the other, kept by Optuna, and gone on with after any end.

Optuna has no public way to take up a trial that another process began. So one that was interrupted
is closed as failed, and another with the same values is queued in its place, for the same run. That
makes a run several trials to Optuna: here a trial is a run, and the last of its trials counts.
"""

import shlex
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from everytoken.config.jobs import called, label
from everytoken.config.keys import MOST_BYTES
from everytoken.config.literal import literal
from everytoken.errors import UserError
from everytoken.runtime.console import log
from everytoken.runtime.signals import EXIT_CODES
from search.space import Direction, Space, assigned, check_start, checked_direction, read_space
from search.trial import alone, result, train

FAILURES = 3
"""So many at the start, and nothing else, end a sweep."""


def search(
    out: Path,
    overrides: list[str],
    *,
    trials: int = 20,
    metric: str = "val/loss",
    direction: Direction | None = None,
    seed: int = 1,
) -> int:
    """Search until a study has so many trials; the exit code.

    Args:
        out: the study's folder; its last part is the study's name.
        overrides: of `python -m train`, some with Hydra's sweeps instead of values.
        trials: how many, those that the study has already included.
        metric: a key of summary.json.
        direction: in which the metric improves; None for its own.
        seed: of what is tried; what trial n tries depends on it and on the trials before.

    Raises:
        UserError: overrides that can't be searched or trained, a study of something else, or
            nothing but failures.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, fixed = read_space(overrides)
    cfg = check_start(space, fixed)
    direction = checked_direction(metric, cfg, direction)
    given = {line.partition("=")[0].lstrip("+~") for line in [*fixed, *space]}
    states: list[TrialState] = []
    with alone(out) as lock:
        study = open_study(out, f"{direction} {metric} {shlex.join(sorted(overrides))}", direction)
        if found := finished(study):
            log(f"going on with the study in {out}, which has {len(found)} trials")
        while len(found := finished(study)) < trials:
            if states == [TrialState.FAIL] * FAILURES:
                raise UserError(
                    f"{FAILURES} trials failed, the last: {found[-1].user_attrs['end']}"
                )
            trial = next_trial(study, space, seed)
            run = out.absolute() / str(trial.user_attrs["run"])
            settings = [*fixed, *assigned(trial.params)]
            log(f"trial {run.name}  {shlex.join(assigned(trial.params))}")
            if "name" not in given:
                settings.append(
                    f"name={literal(trial_name(f'{out.name}-{run.name}', trial.params))}"
                )
            if "wandb" in cfg.logger and not {"logger", "logger.wandb.group"} & given:
                settings.append(f"logger.wandb.group={out.name}")
            code, is_pruned = train(trial, run, settings, metric, lock)
            if code in EXIT_CODES.values() and not is_pruned:
                log(f"trial {run.name} was stopped; the same command again goes on with it")
                return code
            states.append(close(study, trial, run, code, is_pruned, metric))
    if any(trial.state == TrialState.COMPLETE for trial in found):
        best = study.best_trial
        name, end = best.user_attrs["run"], best.user_attrs["end"]
        command = shlex.join([*fixed, *assigned(best.params)])
        log(f"best of {len(found)} is trial {name}, {end}: python -m train {command}")
    return 0


def trial_name(name: str, params: dict[str, Any]) -> str:
    """A trial's name: with what it tries behind it, unless that is too long."""
    tried = [f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in params.items()]
    found = called(name, label(tried, [key.lstrip("+~") for key in params]))
    return found if len(found.encode()) <= MOST_BYTES else name


def open_study(out: Path, asked: str, direction: Direction) -> optuna.Study:
    """The study of a folder, new or as it was left.

    Raises:
        UserError: something else was asked of it.
    """
    study = optuna.create_study(
        storage=f"sqlite:///{(out / 'study.db').absolute()}",
        study_name=out.name,
        direction=direction,
        pruner=optuna.pruners.MedianPruner(),
        load_if_exists=True,
    )
    if (before := study.user_attrs.get("asked", asked)) != asked:
        raise UserError(
            f"the study in {out} is to {before}, not to {asked}: their trials can't be compared; "
            "give another folder, or the command as it was"
        )
    study.set_user_attr("asked", asked)
    return study


def by_run(study: optuna.Study) -> dict[int, FrozenTrial]:
    """The last trial of each run, in order."""
    trials = study.get_trials(deepcopy=False)
    return {t.user_attrs["run"]: t for t in trials if "run" in t.user_attrs}


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Of the last trials, those that ended, well or badly."""
    return [trial for trial in by_run(study).values() if trial.state.is_finished()]


def next_trial(study: optuna.Study, space: Space, seed: int) -> optuna.Trial:
    """The trial that was interrupted, with the same values, or a new one."""
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        run = left.user_attrs.get("run")  # None: it was killed before it began
        if run is not None and by_run(study)[run].number == left.number:
            study.enqueue_trial(left.params, user_attrs={"run": run})
        study.tell(left.number, state=TrialState.FAIL)
    number = len(by_run(study))
    # A sampler for each trial, so that what it draws doesn't depend on when the sweep was killed.
    study.sampler = optuna.samplers.TPESampler(seed=seed + number)
    trial = study.ask(space)
    if "run" not in trial.user_attrs:
        trial.set_user_attr("run", number)
    return trial


def close(
    study: optuna.Study, trial: optuna.Trial, run: Path, code: int, is_pruned: bool, metric: str
) -> TrialState:
    """Record and print how a trial ended."""
    value, state, end = None, TrialState.PRUNED, "worse than the median"
    if code == 0 or not is_pruned:
        try:
            value, state = result(run, code, metric), TrialState.COMPLETE
            end = f"{metric} {value:.4g}"
        except UserError as error:
            state, end = TrialState.FAIL, str(error)
    trial.set_user_attr("end", end)
    study.tell(trial, value, state=state)
    log(f"  {state.name.lower()}  {end}")
    return state
