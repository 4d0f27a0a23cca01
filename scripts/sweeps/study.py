"""A study: trials one after the other, kept in a file, and gone on with after any end."""

import csv
import shlex
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from everytoken.errors import UserError
from everytoken.runtime.console import log
from everytoken.runtime.files import replacing
from sweeps.space import Space, check_start, read_space
from sweeps.trial import Outcome, Trials, alone

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

FAILURES = 3
"""So many at the start, and nothing else, end a sweep."""

TRIALS_FOR_IMPORTANCE = 10


def sweep(
    out: Path, overrides: list[str], *, trials: int, metric: str, maximize: bool, seed: int
) -> int:
    """Search until a study has so many trials; the exit code.

    Args:
        out: the study's folder; its last part is the study's name.
        overrides: of `python -m train`, some with Hydra's sweeps instead of values.
        trials: how many, those that the study has already included.
        metric: a key of summary.json.
        maximize: True if more of it is better.
        seed: of what is tried; what trial n tries depends on it and on the trials before.

    Raises:
        UserError: overrides that can't be searched or trained, a study of something else, another
            sweep in this folder, or nothing but failures.
    """
    space = read_space(overrides)
    cfg = check_start(space)
    out.mkdir(parents=True, exist_ok=True)
    with alone(out) as lock:
        study = open_study(out, space, metric, maximize)
        job = Trials(out.absolute(), metric, lock)
        with job.stoppable():
            if found := len(study.get_trials(deepcopy=False)):
                log(f"going on with the study in {out}, which has {found} trials")
            while len(finished(study)) < trials and not job.signals:
                trial = next_trial(study, space, seed)
                words = [*space.words(trial.params), *space.fixed]
                log(f"trial {trial.number}  {shlex.join(space.words(trial.params))}")
                named = [f"name={out.name}-{trial.number}"] * ("name" not in given(space))
                if "group" in cfg.logger and "logger.group" not in given(space):
                    named.append(f"logger.group={out.name}")
                outcome = job.run(trial, [*words, *named])
                if outcome.state == TrialState.RUNNING:
                    log(f"trial {trial.number} was stopped; the same command again goes on with it")
                    return outcome.code
                tell(study, trial, outcome, metric)
                write(out / "trials.csv", finished(study), space, metric)
                refuse_failures(finished(study))
            if job.signals:
                return 128 + job.signals[0]
    conclude(study, space, metric)
    return 0


def given(space: Space) -> set[str]:
    """Keys that the user sets or searches."""
    return {word.partition("=")[0] for word in space.fixed} | space.searched.keys()


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that ended, well or badly, in order."""
    return study.get_trials(deepcopy=False, states=FINISHED)


def open_study(out: Path, space: Space, metric: str, maximize: bool) -> optuna.Study:
    """The study of a folder, new or as it was left.

    Raises:
        UserError: it searches something else.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    asked: dict[str, Any] = {"--metric": metric, "--maximize": maximize, **space.as_json()}
    study = optuna.create_study(
        storage=optuna.storages.RDBStorage(f"sqlite:///{(out / 'study.db').absolute()}"),
        study_name=out.name,
        direction="maximize" if maximize else "minimize",
        pruner=optuna.pruners.MedianPruner(),
        load_if_exists=True,
    )
    kept = study.user_attrs.get("asked")
    if kept is None:
        study.set_user_attr("asked", asked)
        return study
    for key in {**kept, **asked}:
        before, now = (one.get(key, "nothing") for one in (kept, asked))
        if before != now:
            raise UserError(
                f"the study in {out} has {before} as {key}, not {now}: its trials couldn't be "
                "compared; give another folder, or the command as it was"
            )
    return study


def next_trial(study: optuna.Study, space: Space, seed: int) -> optuna.Trial:
    """The trial that was interrupted, as it was, or a new one."""
    begun = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    number = begun[0].number if begun else len(study.get_trials(deepcopy=False))
    # A sampler for each trial, so that what it draws doesn't depend on when the sweep was killed.
    study.sampler = optuna.samplers.TPESampler(seed=seed + number)
    if not begun:
        return study.ask(space.searched)
    trial = optuna.Trial(study, begun[0]._trial_id)  # there is no public way to take one up again
    for key, one in space.searched.items():
        trial._suggest(key, one)  # what it was given before it was interrupted stays
    return trial


def tell(study: optuna.Study, trial: optuna.Trial, outcome: Outcome, metric: str) -> None:
    """Keep and say how a trial ended."""
    if outcome.reason:
        trial.set_user_attr("reason", outcome.reason)
    value = outcome.value if outcome.state == TrialState.COMPLETE else None
    study.tell(trial.number, value, state=outcome.state)
    said = outcome.reason if outcome.value is None else f"{metric} {outcome.value:.4g}"
    log(f"  {outcome.state.name.lower()}  {said}")


def refuse_failures(trials: list[FrozenTrial]) -> None:
    """End a sweep of which nothing works.

    Raises:
        UserError: why.
    """
    if len(trials) >= FAILURES and all(trial.state == TrialState.FAIL for trial in trials):
        raise UserError(
            f"all {len(trials)} trials failed, the last with: {trials[-1].user_attrs['reason']}"
        )


def write(file: Path, trials: list[FrozenTrial], space: Space, metric: str) -> None:
    """A line for each trial."""
    with replacing(file) as new, new.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["trial", "state", metric, *space.searched, "reason"])
        for trial in trials:
            values = [trial.params.get(key, "") for key in space.searched]
            reason = trial.user_attrs.get("reason", "")
            writer.writerow([*row_start(trial), *values, reason])


def row_start(trial: FrozenTrial) -> list[Any]:
    """What a table says first of a trial."""
    return [trial.number, trial.state.name.lower(), "" if trial.value is None else trial.value]


def conclude(study: optuna.Study, space: Space, metric: str) -> None:
    """All trials as a table, and the best as a command."""
    table = Table("trial", "", metric, *space.searched, show_edge=False, pad_edge=False)
    complete = [t for t in finished(study) if t.state == TrialState.COMPLETE]
    best = study.best_trial if complete else None
    for trial in finished(study):
        style = "green" if best and trial.number == best.number else None
        table.add_row(
            *map(_shown, row_start(trial)), *map(_shown, trial.params.values()), style=style
        )
    log(table)
    if best:
        words = shlex.join([*space.words(best.params), *space.fixed])
        if line := importance(study, len(complete)):
            log(line)
        log(f"best is trial {best.number}: python -m train {words}")


def importance(study: optuna.Study, complete: int) -> str:
    """How much each setting matters for being among the best, after enough trials."""
    if complete < TRIALS_FOR_IMPORTANCE:
        return ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        judge = optuna.importance.PedAnovaImportanceEvaluator()
    shares = optuna.importance.get_param_importances(study, evaluator=judge)
    return "importance  " + ", ".join(f"{key} {share:.2f}" for key, share in shares.items())


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
