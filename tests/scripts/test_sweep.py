"""scripts/sweep.py: a search that goes on after any end, and runs no trial twice at once.

Most tests put a `train` in the place of ours that takes no time, and does what its run's number
says.
"""

import csv
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

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from everytoken.errors import UserError
from support.helpers import summary

SCRIPTS = Path(__file__).parents[2] / "scripts"
SEARCH = ["optimizer.lr=interval(0.1,1)", "optimizer=choice(adamw,sgd)"]

TRAIN = """
import json, os, signal, sys, time
from pathlib import Path

words = dict(word.split("=", 1) for word in sys.argv[1:])
run = Path(words["hydra.run.dir"].strip("'"))
number = int(run.name)
run.mkdir(parents=True, exist_ok=True)
(run / "starts").open("a").write(" ".join(sys.argv[1:]) + "\\n")
busy = (run / "busy").open("x")  # fails if it runs twice at once

def leave(code):
    (run / "busy").unlink()
    sys.exit(code)

def stop(*signal):
    time.sleep(0.5)  # it saves what it has
    leave(143)

signal.signal(signal.SIGTERM, stop)
if number in FAILS:
    print("Epoch 1\\nerror: the loss is nan at step 3\\nsome more words", flush=True)
    leave(2)
with (run / "metrics.csv").open("w") as file:
    file.write("step,train/loss,val/loss\\n1,9.5,\\n")
    for step in range(2, 5):
        file.write(f"{step},,{LOSS[number] + 1 / step}\\n")
    file.write("6,1")  # a line that is being written
if number in LONG and len((run / "starts").read_text().splitlines()) == 1:
    (run / "waits").touch()
    time.sleep(100)
(run / "summary.json").write_text(json.dumps({"val/loss": LOSS[number], "val/bleu": -number}))
leave(0)
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


def search(*words: str, trials: int = 2, **options: Any) -> int:
    """What the script does after it has read its command line."""
    from sweeps.study import sweep

    options = {"metric": "val/loss", "maximize": False, "seed": 1, **options}
    return sweep(Path("study"), [*(words or SEARCH)], trials=trials, **options)


def command(*words: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / "sweep.py"), "study", *(words or SEARCH), "--trials=2"]


def rows() -> list[dict[str, str]]:
    with Path("study/trials.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def starts(number: int) -> list[str]:
    """The words of each time that a trial was started."""
    return Path(f"study/{number}/starts").read_text().splitlines()


# What is searched


@pytest.mark.parametrize(
    ("word", "expected"),
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
    word: str, expected: BaseDistribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from sweeps.space import read_space

    space = read_space(["b=5", word])
    assert space.fixed == ["b=5"]
    assert space.searched == {word.partition("=")[0]: expected}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["optimizer.lr=0.1"], "nothing to search"),
        (["optimizer.lr=interval(0.1"], "can't read 'optimizer.lr=interval(0.1'"),
        (["optimizer.lr=interval(1,0.1)"], "can't search optimizer.lr=interval(1,0.1)"),
        (["optimizer.lr=tag(log,interval(0,1))"], "can't search optimizer.lr=tag(log"),
        (["optimizer.lr=tag(gauss,interval(0,1))"], "the tag gauss means nothing here"),
        (["model.layers=range(2,2)"], "the range is empty"),
        (["model=glob(*)"], "can't search model=glob(*)"),
        ([*SEARCH, "optimizer.lr=interval(0.1,2)"], "optimizer.lr is searched twice"),
        ([*SEARCH, "hydra.run.dir=elsewhere"], "hydra.run.dir=elsewhere: each trial is given"),
        (["optimizer.lrr=interval(0.1,1)"], "unknown key optimizer.lrr: did you mean optimizer.lr"),
        ([*SEARCH, "model.layers=0"], "model.layers must be a whole number of at least 1, got 0"),
        ([*SEARCH, "model=gigantic"], "no choice 'gigantic' in group 'model'"),
    ],
)
def test_what_cant_be_searched_is_refused_before_anything_is_made(
    fake: Callable[..., None], words: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        search(*words)
    assert not Path("study").exists()


def test_a_corner_that_cant_be_trained_is_no_reason_to_refuse_all(
    fake: Callable[..., None],
) -> None:
    fake()
    assert search("model.heads=choice(3,4)", trials=1) == 0


# What a study does


def test_each_trial_is_a_named_run_of_the_same_settings_but_for_what_is_searched(
    fake: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake()
    assert search(*SEARCH, "seed=3") == 0
    for number in (0, 1):
        [words] = starts(number)
        *searched, seed, name, group, place = words.split()[:6]
        assert [word.partition("=")[0] for word in searched] == ["optimizer.lr", "optimizer"]
        assert (seed, name, group) == ("seed=3", f"name=study-{number}", "logger.group=study")
        assert place == f"hydra.run.dir='{Path('study').absolute()}/{number}'"
    found = rows()
    assert [(row["trial"], row["state"], row["val/loss"]) for row in found] == [
        ("0", "complete", "1.0"),
        ("1", "complete", "2.0"),
    ]
    assert starts(0)[0].startswith(f"optimizer.lr={found[0]['optimizer.lr']} ")
    best = " ".join(starts(0)[0].split()[:3])
    assert f"best is trial 0: python -m train {best}" in capsys.readouterr().out


def test_a_study_can_be_enlarged_and_tries_what_it_would_have_tried_at_once(
    fake: Callable[..., None],
) -> None:
    fake()
    search(trials=3)
    at_once = rows()
    Path("study").rename("other")
    search(trials=1)
    search(trials=3)
    assert rows() == at_once
    assert len(starts(0)) == 1


def test_what_is_to_be_large_is_searched_for_large_values(
    fake: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    fake()
    search(metric="val/bleu", maximize=True)
    assert "best is trial 0" in capsys.readouterr().out


def test_what_a_summary_doesnt_say_fails(fake: Callable[..., None]) -> None:
    fake()
    search(metric="val/chrf", trials=1)
    [row] = rows()
    assert (row["state"], row["reason"]) == ("fail", "it has no val/chrf, but val/loss, val/bleu")


def test_a_trial_that_fails_is_kept_with_its_reason(fake: Callable[..., None]) -> None:
    fake(fails="(1,)")
    assert search(trials=3) == 0
    assert [row["state"] for row in rows()] == ["complete", "fail", "complete"]
    assert rows()[1]["reason"] == "the loss is nan at step 3"


def test_a_sweep_of_which_nothing_works_ends(fake: Callable[..., None]) -> None:
    fake(fails="range(9)")
    with pytest.raises(UserError, match="all 3 trials failed, the last with: the loss is nan"):
        search(trials=9)


def test_a_trial_that_is_worse_than_most_is_stopped(fake: Callable[..., None]) -> None:
    fake(loss="[1, 1, 1, 1, 1, 9, 1]", long="(5,)")
    began = time.monotonic()
    assert search(trials=7) == 0
    assert time.monotonic() - began < 60
    assert [row["state"] for row in rows()] == [*["complete"] * 5, "pruned", "complete"]
    assert rows()[5]["val/loss"] == "9.25"
    assert not Path("study/5/busy").exists()  # it had time to save


@pytest.mark.bad_input
def test_another_study_in_the_same_folder_is_refused(fake: Callable[..., None]) -> None:
    fake()
    search(trials=1)
    for words, told in (
        (["optimizer.lr=interval(0.1,2)", SEARCH[1]], "optimizer.lr"),
        ([*SEARCH, "model.layers=range(1,3)"], "nothing as model.layers, not"),
        (SEARCH[:1], "as optimizer, not nothing"),
        ([*SEARCH, "seed=2"], "as settings, not seed=2"),
    ):
        with pytest.raises(UserError, match=told):
            search(*words)
    with pytest.raises(UserError, match="val/loss as --metric, not val/bleu"):
        search(metric="val/bleu")


# After any end


def begun(number: int) -> subprocess.Popen[bytes]:
    """A sweep, as soon as its trial of this number is in the middle."""
    sweep = subprocess.Popen(command())
    while not Path(f"study/{number}/waits").exists():
        assert sweep.poll() is None
        time.sleep(0.1)
    return sweep


def assert_went_on(number: int) -> None:
    assert [row["state"] for row in rows()] == ["complete", "complete"]
    first, second = starts(number)
    assert first == second
    assert len(starts(1 - number)) == 1


def test_after_a_kill_the_trial_goes_on_and_never_runs_twice_at_once(
    fake: Callable[..., None],
) -> None:
    fake(long="(0,)")
    sweep = begun(0)
    refused = subprocess.run(command(), capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: process {sweep.pid} is at work on study already")
    sweep.kill()
    sweep.wait()
    assert search() == 0  # at once: the trial is still saving
    assert_went_on(0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_after_a_signal_the_trial_saves_and_goes_on_next_time(
    fake: Callable[..., None], number: int, code: int
) -> None:
    fake(long="(1,)")
    sweep = begun(1)
    sweep.send_signal(number)
    assert sweep.wait() == code
    assert not Path("study/1/busy").exists()
    assert search() == 0
    assert_went_on(1)


# The command


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--trials=0"], "--trials must be at least 1, got 0"),
        (["--metric=test/loss"], "--metric must be one of validation (val/loss), got test/loss"),
    ],
)
def test_bad_options_are_one_line(tmp_path: Path, words: list[str], told: str) -> None:
    done = subprocess.run([*command(), *words], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"error: {told}\n")


@pytest.mark.slow
def test_real_runs_are_trials_and_go_on_after_a_kill(tmp_path: Path) -> None:
    words = ["trainer.max_steps=30", "trainer.val_check_interval=10", "data.limit_examples=12"]
    words += ["callbacks.last_checkpoint.every_n_steps=5", "data.batch_size=4", "model.layers=1"]
    words += ["task.max_new_tokens=null", "logger=none"]
    whole = command("optimizer.lr=tag(log,interval(1e-4,1e-2))", *words)
    first = tmp_path / "study" / "0"
    sweep = subprocess.Popen(whole, cwd=tmp_path, stdout=subprocess.DEVNULL)
    while not (first / "checkpoints" / "last.ckpt").exists():
        assert sweep.poll() is None
        time.sleep(0.1)
    sweep.kill()
    sweep.wait()
    identity = json.loads((first / "run.json").read_text())
    done = subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    continued = json.loads((first / "run.json").read_text())
    [resumption] = continued.pop("resumed")
    assert continued == identity
    assert resumption["step"] >= 5
    assert resumption["changed"] == []
    found = [summary(tmp_path / "study" / str(number)) for number in (0, 1)]
    assert [values["steps"] for values in found] == [30, 30]
    best = min((0, 1), key=lambda number: found[number]["val/loss"])
    assert f"best is trial {best}: python -m train optimizer.lr=" in done.stdout
