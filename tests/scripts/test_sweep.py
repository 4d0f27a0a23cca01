"""scripts/sweep.py: a search that goes on after any end, and runs no trial twice at once.

Most tests put a `train` in the place of ours that takes no time, and does what its run's number
says.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from everytoken.errors import UserError
from support import prefork
from support.helpers import summary

SCRIPTS = Path(__file__).parents[2] / "scripts"
SEARCH = ["optimizer.lr=interval(0.1,1)", "optimizer=choice(adamw,sgd)"]
OPTIONS = ["--trials=2", "--direction=minimize"]

TRAIN = """
import fcntl, json, os, signal, sys, time
from pathlib import Path

words = dict(word.split("=", 1) for word in sys.argv[1:])
run = Path(words["hydra.run.dir"].strip("'"))
number = int(run.name)
run.mkdir(parents=True, exist_ok=True)
(run / "starts").open("a").write(" ".join(sys.argv[1:]) + "\\n")
busy = (run / "busy").open("a")
fcntl.flock(busy, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if it runs twice at once

def stop(*signal):
    time.sleep(0.5)  # it saves what it has
    (run / "saved").touch()
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
if number in FAILS:
    print("Epoch 1\\nerror: the loss is nan at step 3\\nsome more words", flush=True)
    sys.exit(2)
with (run / "metrics.csv").open("w") as file:
    file.write("step,train/loss,val/loss\\n1,9.5,\\n")
    for step in range(2, 5):
        file.write(f"{step},,{LOSS[number] + 1 / step}\\n")
    file.write("6,,1")  # a line that is being written
if number in LONG and len((run / "starts").read_text().splitlines()) == 1:
    (run / "waits").write_text(str(os.getpid()))
    time.sleep(100)
values = {"val/loss": LOSS[number], "val/accuracy": number / 10, "val/own": -number}
(run / "summary.json").write_text(json.dumps(values))
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a `train` in the place of ours: FAILS, and is LONG on its first start, by number."""

    def put(loss: str = "range(1, 99)", fails: str = "()", long: str = "()") -> None:
        values = f"LOSS, FAILS, LONG = {loss}, {fails}, {long}\n"
        (tmp_path / "fake").mkdir(exist_ok=True)
        (tmp_path / "fake" / "train.py").write_text(values + TRAIN)
        places = (str(tmp_path / "fake"), os.environ.get("PYTHONPATH", ""))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return put


def sweep(*words: str, trials: int = 2, **options: Any) -> int:
    """What the script does after it has read its command line."""
    from search.study import search

    return search(Path("study"), [*(words or SEARCH)], trials=trials, **options)


def command(*words: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / "sweep.py"), "study", *(words or SEARCH), *OPTIONS]


def study() -> optuna.Study:
    return optuna.load_study(study_name="study", storage="sqlite:///study/study.db")


def ended() -> list[tuple[str, float | None]]:
    """State and value of each run."""
    from search.study import by_run

    return [(trial.state.name, trial.value) for trial in by_run(study()).values()]


def starts(number: int) -> list[str]:
    """The overrides of each time that a trial was started."""
    return Path(f"study/{number}/starts").read_text().splitlines()


# What is searched


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a=choice(x,y)", CategoricalDistribution(["x", "y"])),
        ("a=x,y", CategoricalDistribution(["x", "y"])),
        ("a=1,null,true", CategoricalDistribution(["1", "null", "True"])),
        ("a=interval(0,0.3)", FloatDistribution(0, 0.3)),
        ("a=tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("a=int(interval(1,4))", IntDistribution(1, 4)),
        ("a=tag(int,log,interval(1,64))", IntDistribution(1, 64, log=True)),
        ("a=range(1,4)", IntDistribution(1, 3)),
        ("a=range(0,9,3)", IntDistribution(0, 6, step=3)),
        ("a=range(9,0,-3)", IntDistribution(3, 9, step=3)),
        ("a=range(0,0.5,0.25)", FloatDistribution(0, 0.25, step=0.25)),
        ("+a.b=choice(x)", CategoricalDistribution(["x"])),
    ],
)
def test_hydras_sweeps_are_searched(
    line: str, expected: BaseDistribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from search.space import read_space

    assert read_space(["b=5", line]) == ({line.partition("=")[0]: expected}, ["b=5"])


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=0.1"], "nothing to search"),
        (["optimizer.lr=interval(0.1"], "can't search or set 'optimizer.lr=interval(0.1'"),
        (["optimizer.lr=interval(1,0.1)"], "can't search or set 'optimizer.lr=interval(1,0.1)'"),
        (["optimizer.lr=tag(log,interval(0,1))"], "can't search or set 'optimizer.lr=tag(log"),
        (["optimizer.lr=tag(gauss,interval(0,1))"], "the tag gauss means nothing here"),
        (["model.layers=range(2,2)"], "the range is empty"),
        (["model=glob(*)"], "can't search or set 'model=glob(*)': name the choices"),
        ([*SEARCH, "optimizer.lr=interval(0.1,2)"], "optimizer.lr is given twice: give it once"),
        ([*SEARCH, "optimizer.lr=0.1"], "optimizer.lr is given twice: give it once"),
        (["++optimizer.lr=0.1", *SEARCH], "optimizer.lr is given twice: give it once"),
        ([*SEARCH, "seed=1", "seed=2"], "seed is given twice: give it once"),
        ([*SEARCH, "+logger.api_key=abc123"], "logger.api_key"),
        ([*SEARCH, "hydra.run.dir=elsewhere"], "hydra.run.dir=elsewhere: each trial is given"),
        (["optimizer.lrr=interval(0.1,1)"], "unknown key optimizer.lrr: did you mean optimizer.lr"),
        ([*SEARCH, "model.layers=0"], "model.layers must be a whole number of at least 1, got 0"),
        ([*SEARCH, "model=gigantic"], "no choice 'gigantic' in group 'model'"),
    ],
)
def test_what_cant_be_searched_is_refused_before_anything_is_made(
    fake: Callable[..., None], words: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        sweep(*words)
    assert not Path("study").exists()


def test_a_corner_that_cant_be_trained_is_no_reason_to_refuse_all(
    fake: Callable[..., None],
) -> None:
    fake()
    assert sweep("model.heads=choice(3,4)", trials=1) == 0


# What a study does


def test_each_trial_is_a_named_run_of_the_same_settings_but_for_what_is_searched(
    fake: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake()
    assert sweep(*SEARCH, "seed=3") == 0
    for number in (0, 1):
        [words] = starts(number)
        seed, *searched, name, group, place = words.split()[:6]
        assert [one.partition("=")[0] for one in searched] == ["optimizer.lr", "optimizer"]
        lr, optimizer = (one.partition("=")[2] for one in searched)
        tried = f"lr={float(lr):.3g},optimizer={optimizer}"
        assert (seed, group) == ("seed=3", "logger.wandb.group=study")
        assert name == f"name='study-{number}-{tried}'"
        assert place == f"hydra.run.dir='{Path('study').absolute()}/{number}'"
    assert ended() == [("COMPLETE", 1.0), ("COMPLETE", 2.0)]
    assert starts(0)[0].startswith(
        f"seed=3 optimizer.lr={study().trials[0].params['optimizer.lr']} "
    )
    best = " ".join(starts(0)[0].split()[:3])
    message = f"best of 2 is trial 0, val/loss 1: python -m train {best}\n"
    assert capsys.readouterr().out.endswith(message)


def test_a_study_can_be_enlarged_and_tries_what_it_would_have_tried_at_once(
    fake: Callable[..., None],
) -> None:
    fake()
    sweep(trials=3)
    at_once = [trial.params for trial in study().trials]
    assert len({params["optimizer.lr"] for params in at_once}) == 3
    Path("study").rename("other")
    sweep(trials=1)
    sweep(trials=3)
    assert [trial.params for trial in study().trials] == at_once
    assert len(starts(0)) == 1


@pytest.mark.parametrize(
    ("metric", "settings", "direction"),
    [
        ("val/loss", [], "minimize"),
        ("val/perplexity", [], "minimize"),
        ("val/bits_per_byte", ["task=causal_lm", "data=pydoc"], "minimize"),
        ("val/accuracy", [], "maximize"),
        ("val/exact_match", [], "maximize"),
        ("val/accuracy_top5", ["metrics=top5"], "maximize"),
        ("val/bleu", ["metrics=translation"], "maximize"),
        ("val/chrf", ["metrics=translation"], "maximize"),
    ],
)
def test_a_metric_is_searched_in_its_own_direction(
    metric: str, settings: list[str], direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from search.space import check_start, checked_direction, read_space

    cfg = check_start(*read_space([*SEARCH, *settings]))
    assert checked_direction(metric, cfg, None) == direction
    other: Any = {"minimize": "maximize", "maximize": "minimize"}[direction]
    with pytest.raises(UserError, match=f"--direction {other} would take the worst {metric} for"):
        checked_direction(metric, cfg, other)


def test_the_best_is_that_of_most_accuracy(
    fake: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake()
    sweep(metric="val/accuracy", trials=3)
    assert "best of 3 is trial 2, val/accuracy 0.2" in capsys.readouterr().out


@pytest.mark.bad_input
def test_where_a_metric_doesnt_say_its_direction_the_user_does(
    fake: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake()
    message = "it isn't known whether more of val/own is better: add --direction minimize or"
    with pytest.raises(UserError, match=message):
        sweep(metric="val/own")
    assert not Path("study").exists()
    sweep(metric="val/own", direction="minimize", trials=3)
    assert "best of 3 is trial 2, val/own -2" in capsys.readouterr().out


def test_what_a_summary_lacks_fails(fake: Callable[..., None]) -> None:
    fake()
    sweep(metric="val/chrf", direction="maximize", trials=1)
    assert ended() == [("FAIL", None)]
    message = "val/chrf is not measured, of val/loss, val/accuracy, val/own"
    assert study().trials[0].user_attrs["end"] == message


def test_a_trial_that_fails_is_kept_with_its_reason(fake: Callable[..., None]) -> None:
    fake(fails="(1,)")
    assert sweep(trials=3) == 0
    assert [state for state, _ in ended()] == ["COMPLETE", "FAIL", "COMPLETE"]
    message = f"the loss is nan at step 3 (exit code 2, see {Path('study/1.log').absolute()})"
    assert study().trials[1].user_attrs["end"] == message


def test_a_sweep_of_which_nothing_works_ends_and_can_be_tried_again(
    fake: Callable[..., None],
) -> None:
    fake(fails="range(9)")
    with pytest.raises(UserError, match="3 trials failed, the last: the loss is nan"):
        sweep(trials=9)
    fake()
    sweep(trials=4)
    assert [state for state, _ in ended()] == ["FAIL", "FAIL", "FAIL", "COMPLETE"]


def test_a_trial_that_is_worse_than_most_is_stopped(fake: Callable[..., None]) -> None:
    fake(loss="[1, 1, 1, 1, 1, 9, 1]", long="(5,)")
    began = time.monotonic()
    assert sweep(trials=7) == 0
    assert time.monotonic() - began < 60
    assert [state for state, _ in ended()] == [*["COMPLETE"] * 5, "PRUNED", "COMPLETE"]
    assert ended()[5][1] == 9.25
    assert Path("study/5/saved").exists()  # it had time to


@pytest.mark.bad_input
def test_another_study_in_the_same_folder_is_refused(fake: Callable[..., None]) -> None:
    fake()
    sweep(trials=1)
    for words in (
        ["optimizer.lr=interval(0.1,2)", SEARCH[1]],
        [*SEARCH, "model.layers=range(1,3)"],
        SEARCH[:1],
        [*SEARCH, "seed=2"],
    ):
        with pytest.raises(UserError, match="the study in study is to minimize val/loss"):
            sweep(*words)
    with pytest.raises(UserError, match="not to maximize val/accuracy"):
        sweep(metric="val/accuracy")
    sweep(*SEARCH[::-1], trials=1)


# After any end


def begun(number: int) -> subprocess.Popen[str]:
    """A sweep, as soon as its trial of this number is in the middle."""
    process = subprocess.Popen(command(), stdout=subprocess.PIPE, text=True)
    while not Path(f"study/{number}/waits").exists():
        assert process.poll() is None
        time.sleep(0.1)
    return process


def assert_went_on(number: int) -> None:
    """Two trials were made, and one of them was begun twice, in the same way."""
    assert [state for state, _ in ended()] == ["COMPLETE", "COMPLETE"]
    first, second = starts(number)
    assert first == second
    assert len(starts(1 - number)) == 1


def test_after_a_kill_the_trial_goes_on_and_never_runs_twice_at_once(
    fake: Callable[..., None],
) -> None:
    fake(long="(0,)")
    process = begun(0)
    process.kill()
    process.wait()
    again = subprocess.Popen(command(), stdout=subprocess.PIPE, text=True)
    assert again.stdout is not None
    assert again.stdout.readline().startswith("waiting for another sweep of study, or for the")
    os.kill(int(Path("study/0/waits").read_text()), signal.SIGKILL)
    assert again.wait() == 0
    assert_went_on(0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_after_a_signal_the_trial_saves_and_goes_on_next_time(
    fake: Callable[..., None], number: int, code: int
) -> None:
    fake(long="(1,)")
    process = begun(1)
    process.send_signal(number)
    assert process.wait() == code
    assert Path("study/1/saved").exists()
    assert sweep() == 0
    assert_went_on(1)


def test_a_sweep_ends_with_a_trial_that_was_stopped(fake: Callable[..., None]) -> None:
    fake(long="(1,)")
    process = begun(1)
    os.kill(int(Path("study/1/waits").read_text()), signal.SIGTERM)
    assert process.wait() == 143
    assert sweep() == 0
    assert_went_on(1)


@pytest.mark.parametrize("moment", ["before it has a run", "as it is queued again"])
def test_a_kill_between_two_writes_to_the_study_loses_and_doubles_nothing(
    fake: Callable[..., None], moment: str
) -> None:
    fake()
    sweep(trials=1)
    space = study().trials[0].distributions
    trial = study().ask(space)
    if moment == "as it is queued again":
        trial.set_user_attr("run", 1)
        study().enqueue_trial(trial.params, user_attrs={"run": 1})
    sweep(trials=3)
    assert ended() == [("COMPLETE", 1.0), ("COMPLETE", 2.0), ("COMPLETE", 3.0)]
    assert [len(starts(number)) for number in range(3)] == [1, 1, 1]
    assert not study().get_trials(states=(TrialState.RUNNING, TrialState.WAITING))


# The command


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials=0"], "--trials must be at least 1, got 0"),
        (["--metric=test/loss"], "--metric must be one of validation (val/loss), got test/loss"),
        (
            ["optimizer=sgd"],
            "optimizer is given twice: give it once, as a value or as what to search",
        ),
    ],
)
def test_bad_options_are_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    done = subprocess.run([*command(), *words], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"error: {message}\n")


@pytest.mark.slow
def test_real_runs_are_trials_and_go_on_after_a_kill(tmp_path: Path) -> None:
    words = ["trainer.max_steps=30", "trainer.val_check_interval=10", "data.limit_examples=12"]
    words += ["callbacks.last_checkpoint.every_n_steps=5", "data.batch_size=4", "model.layers=1"]
    words += ["task.max_new_tokens=null", "logger=none"]
    whole = command("optimizer.lr=tag(log,interval(1e-4,1e-2))", *words)[1:]
    first = tmp_path / "study" / "0"
    process = prefork.Process(*whole, folder=tmp_path)
    while not (first / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.1)
    [trial] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, int(trial)):  # both at once, as if the machine went down
        os.kill(pid, signal.SIGKILL)
    process.wait()
    identity = json.loads((first / "run.json").read_text())
    done = prefork.run(tmp_path, *whole)
    assert done.returncode == 0, done.stderr
    continued = json.loads((first / "run.json").read_text())
    [resumption] = continued.pop("resumed")
    assert continued == identity
    assert resumption["step"] >= 5
    assert resumption["changed"] == []
    found = [summary(tmp_path / "study" / str(number)) for number in (0, 1)]
    assert [values["steps"] for values in found] == [30, 30]
    best = min((0, 1), key=lambda number: found[number]["val/loss"])
    assert f"best of 2 is trial {best}, val/loss" in done.stdout
