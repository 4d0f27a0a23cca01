"""Whole runs, started as a user starts them."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
from omegaconf import OmegaConf

from everytoken.commands.evaluate import load_module
from everytoken.model.transformer import Transformer
from everytoken.run.checkpoint_file import is_sharded
from everytoken.run.directory import Run
from everytoken.tokenizer.tokenizer import Tokenizer
from support.helpers import assert_refused, run, run_here, summary
from support.small_runs import SMALL

pytestmark = pytest.mark.slow

TIMINGS = (
    "throughput/real_tokens_per_second",
    "throughput/share_of_peak",
    "memory/resident_gib",
)


def train(folder: Path, *words: str) -> Path:
    """Train in folder/run; the run directory."""
    result = run(folder, "train", "hydra.run.dir=run", *SMALL, *words)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "run"


def metrics(path: Path) -> list[dict[str, str]]:
    """The lines of metrics.csv without what depends on the machine."""
    with (path / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]


def assert_near(a: list[dict[str, str]], b: list[dict[str, str]], tolerance: float) -> None:
    """Equal columns and lines, numbers within a relative tolerance."""
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys()
        for key in left:
            assert bool(left[key]) == bool(right[key]), key
            if left[key]:
                assert float(left[key]) == pytest.approx(float(right[key]), rel=tolerance), key


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one process."""
    return train(tmp_path_factory.mktemp("one"))


def test_a_run_leaves_everything_in_its_directory(finished: Path):
    names = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    assert names == {
        ".lock",
        "config.yaml",
        "run.json",
        "metrics.csv",
        "summary.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "data.json",
        "report.html",
        "report.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/last-1.ckpt",
    }
    result = summary(finished)
    for split in ("val", "test"):
        for name in ("loss", "accuracy", "perplexity", "exact_match"):
            assert f"{split}/{name}" in result
    assert result["throughput/fill"] == 1.0
    assert result["throughput/real_tokens_per_second"] > 0
    assert result["steps"] == 6
    assert [row["step"] for row in metrics(finished) if row["train/loss"]] == list("123456")


def test_eval_finds_again_what_training_reported(finished: Path):
    """On one process and on two: 23 examples don't divide by two."""
    expected = summary(finished)
    texts: dict[str, list[str]] = {}
    for trainer, split in [("auto", "val"), ("auto", "test"), ("ddp_cpu", "test")]:
        evaluate = run if trainer == "ddp_cpu" else run_here
        result = evaluate(
            finished.parent, "eval", "run=run", f"split={split}", f"trainer={trainer}"
        )
        assert result.returncode == 0, result.stderr
        found = json.loads((finished / f"eval-{split}-best.json").read_text())
        assert len(found) == 4
        for name, value in found.items():
            assert value == pytest.approx(expected[name], rel=1e-6), (trainer, name)
        lines = (finished / f"eval-{split}-best.txt").read_text().split("\n")
        assert len(lines) == {"val": 21, "test": 23}[split] + 1
        assert texts.setdefault(split, lines) == lines  # in the same order on two ranks


def test_generate_answers_each_line_with_a_line(finished: Path):
    given = "samedi 7 février 1998\n\n2026年11月22日\n"
    done = run(finished, "generate", f"run={finished}", "batch_size=2", given=given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 3


def test_a_run_repeats_from_its_own_config(finished: Path, tmp_path: Path):
    words = ["--config-dir", str(finished), "--config-name", "config"]
    result = run(tmp_path, "train", *words, "hydra.run.dir=again")
    assert result.returncode == 0, result.stderr
    assert metrics(tmp_path / "again") == metrics(finished)
    assert OmegaConf.load(finished / "config.yaml").seed == 1
    written = (finished / "config.yaml").read_text().split("output_subdir")[1]
    assert "${" not in written.replace("${oc.env:", "")  # what the environment says isn't written
    assert_refused(run(tmp_path, "train", *words, "model=small"), "model", "model.KEY=VALUE")


def test_two_processes_train_the_same_model_in_one_directory(finished: Path, tmp_path: Path):
    # Three micro-batches on either rank: no filler, which would count in the fill.
    path = train(tmp_path, "trainer=ddp_cpu", "data.microbatch_tokens=110")
    assert summary(path)["processes"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert_near(metrics(path), metrics(finished), tolerance=1e-4)


def test_a_way_to_attend_that_was_forced_in_training_is_not_needed_later(finished: Path):
    trained = Run.open(finished)
    cfg = trained.config
    cfg.model.attention = "varlen"  # on a GPU
    module = load_module(trained, cfg, Tokenizer.load(trained.tokenizer_file), "last")
    assert isinstance(module.model, Transformer)
    assert module.model.attention == "auto"


SPLIT = ("trainer.devices=4", "trainer.tensor_parallel=2")
"""Two that read different examples times two that split the matrices."""


@pytest.mark.parametrize("more", [(), SPLIT])
def test_fsdp_trains_the_same_model(finished: Path, tmp_path: Path, more: tuple[str, ...]):
    """Its best checkpoint, in shards, is what it tests at the end."""
    path = train(tmp_path, "trainer=fsdp_cpu", "trainer.sharded_checkpoints=true", *more)
    assert_near(metrics(path), metrics(finished), tolerance=1e-4)
    assert is_sharded(path / "checkpoints" / "best.ckpt")
    assert summary(path)["test/loss"] == pytest.approx(summary(finished)["test/loss"], rel=1e-4)


def test_a_run_goes_on_on_any_devices_as_it_would_have_on_its_own(finished: Path, tmp_path: Path):
    """The optimizer numbers weights by its groups, and FSDP by their places in the model.

    So does an average of its weights, which is validated and kept.
    """
    alone, moved = (shutil.copytree(finished, tmp_path / name) for name in ("alone", "moved"))
    in_shards = "trainer.sharded_checkpoints=true"  # as far as there are any
    for trainer, steps in [("fsdp_cpu", 8), ("ddp_cpu", 10)]:
        for path, where in [(alone, "cpu"), (moved, trainer)]:
            words = [f"resume={path}", f"trainer={where}", f"trainer.max_steps={steps}"]
            words += ["callbacks=ema", "callbacks.ema.decay=0.5"]
            words += [in_shards] * (where != "cpu")
            command = run_here if where == "cpu" else run
            done = command(tmp_path, "train", *words)
            assert done.returncode == 0, done.stdout + done.stderr
    assert_near(metrics(moved), metrics(alone), tolerance=1e-4)


def test_torchrun_may_start_the_ranks(finished: Path, tmp_path: Path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "-m", "train", "trainer=cpu", f"hydra.run.dir={tmp_path}/run", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_near(metrics(tmp_path / "run"), metrics(finished), tolerance=1e-4)


def test_a_job_of_a_sweep_that_fails_ends_no_other_and_the_best_is_told(tmp_path: Path):
    words = ["optimizer.lr=1e-9,1e30,1e-2", "trainer.max_steps=2", "trainer.val_check_interval=1"]
    words += ["task.max_new_tokens=null", "callbacks.best_checkpoint.monitor=val/accuracy"]
    done = run_here(tmp_path, "train", "--multirun", *SMALL, *words, "hydra.sweep.dir=sweep")
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("error: ") == 1
    accuracy = {n: summary(tmp_path / "sweep" / n)["val/accuracy"] for n in ("0", "2")}
    best = max(accuracy, key=lambda n: accuracy[n])
    setting = {"0": "lr=1e-09", "2": "lr=0.01"}[best]
    rows = [" ".join(line.replace("│", " ").split()) for line in done.stdout.splitlines()]
    [failed] = [row for row in rows if row.endswith("failed, exit code 1")]
    assert failed.startswith("1 lr=1e")
    assert f"{best} {setting} {accuracy[best]:.4g} best" in rows
    assert f"best of 3: job {best} ({setting}) in sweep/{best}" in rows
    assert "compare them: python -m compare run=sweep" in rows
    assert f"seq2seq-dates-{setting} in sweep/{best}" in rows
    assert run_here(tmp_path, "compare", "run=sweep").returncode == 0


def test_a_sweep_over_two_processes_makes_one_directory_a_job(tmp_path: Path):
    words = ["trainer=ddp_cpu", "trainer.max_steps=2", "seed=1,2", "data.batch_size=1"]
    words.append("data.curriculum_epochs=1")
    result = run(tmp_path, "train", "--multirun", *SMALL, *words)
    assert result.returncode == 0, result.stderr
    idle = "warning: 1 of 2 ranks never get an example: raise data.batch_size"
    short = "warning: training ends within the first epoch, which data.curriculum_epochs begins"
    assert result.stdout.count(idle) == result.stdout.count(short) == 2  # in each job, from rank 0
    jobs = sorted(tmp_path.glob("runs/*/*/*/summary.json"))
    assert [job.parent.name for job in jobs] == ["0", "1"]
    assert [OmegaConf.load(job.parent / "config.yaml").seed for job in jobs] == [1, 2]
    identities = {json.loads((job.parent / "run.json").read_text())["id"] for job in jobs}
    assert len(identities) == 2


@pytest.mark.parametrize("task", ["causal_lm", "masked_lm", "prefix_lm", "span_corruption"])
def test_language_models_train_validate_test_and_answer(tmp_path: Path, task: str):
    words = ["logger=none", "debug=fast", f"task={task}", "data=pydoc", "data.limit_examples=3"]
    words += ["model.width=32", "model.ffn_width=48"]
    result = run_here(tmp_path, "train", *words, "hydra.run.dir=run", "precision=bf16")
    assert result.returncode == 0, result.stderr
    assert summary(tmp_path / "run")["test/perplexity"] > 1
    prompt = "The " if task in ("causal_lm", "prefix_lm") else "The <mask> statement"
    (tmp_path / "prompt.txt").write_text(prompt + "\n")
    words = ["run=run", "max_new_tokens=5", "input=prompt.txt", "output=answer.txt"]
    assert run_here(tmp_path, "generate", *words).returncode == 0
    answer = (tmp_path / "answer.txt").read_text()
    assert answer.endswith("\n")
    assert answer.strip("\n") != prompt


def test_wandb_without_a_key_records_offline_and_says_how_to_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = run_here(tmp_path, "train", "hydra.run.dir=run", *SMALL, "logger=wandb")
    wandb.teardown()  # waits for W&B's own process: it may write for some time after a run's end
    assert done.returncode == 0, done.stderr
    assert "wandb sync" in done.stdout
    [record] = tmp_path.glob("run/wandb/offline-run-*/*.wandb")
    content = record.read_bytes()
    identity = json.loads((tmp_path / "run" / "run.json").read_text())
    for word in (identity["id"], "val/exact_match", "microbatch_tokens", "train/loss"):
        assert word.encode() in content


def test_wandb_with_a_key_and_no_network_records_offline_and_keeps_the_key_secret(tmp_path: Path):
    key = "0123456789abcdef" * 2 + "01234567"
    env = {"HOME": str(tmp_path), "WANDB_API_KEY": key}
    env |= {"WANDB_BASE_URL": "http://127.0.0.1:9"}  # nobody listens there
    done = run(tmp_path, "train", "hydra.run.dir=run", *SMALL, "logger=wandb", **env)
    assert done.returncode == 0, done.stderr
    assert "can't be reached" in done.stdout
    assert list(tmp_path.glob("run/wandb/offline-run-*"))
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or key.encode() not in file.read_bytes(), file


def test_averaged_weights_are_what_is_tested_and_kept(tmp_path: Path):
    path = train(tmp_path, "callbacks=ema", "callbacks.ema.decay=0.9")
    step = int(summary(path)["best/step"])
    found: dict[str, float] = {}
    for named in ("run=run", "run=run/checkpoints/best.ckpt"):
        done = run_here(tmp_path, "eval", named)
        assert f"run/checkpoints/best.ckpt: averaged weights of step {step}" in done.stdout
        found = json.loads((path / "eval-test-best.json").read_text())
        for name, value in found.items():
            assert summary(path)[name] == pytest.approx(value, rel=1e-6)
    done = run_here(tmp_path, "eval", "run=run", "checkpoint=raw-best")
    assert f"best.ckpt: trained weights of step {step}" in done.stdout, done.stderr
    raw = json.loads((path / "eval-test-raw-best.json").read_text())
    assert raw["test/loss"] != pytest.approx(found["test/loss"], rel=1e-6)


@pytest.mark.bad_input
def test_a_checkpoint_of_another_model_or_no_checkpoint_is_refused(finished: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("ffn_width: 48", "ffn_width: 50"))
    assert_refused(run_here(tmp_path, "eval", "run=copy"), "best.ckpt", "another model", "ffn")
    (copy / "checkpoints" / "last.ckpt").write_bytes(b"not a checkpoint")
    assert_refused(run_here(tmp_path, "eval", "run=copy", "checkpoint=last"), "last.ckpt")
    (copy / "checkpoints" / "last.ckpt").unlink()
    assert_refused(run_here(tmp_path, "eval", "run=copy", "checkpoint=last"), "no checkpoint")
    (copy / "tokenizer.json").write_text("{")
    assert_refused(run_here(tmp_path, "generate", "run=copy"), "tokenizer.json")


def test_a_run_in_epochs_ends_with_them_and_validates_its_last_step(tmp_path: Path):
    """300 examples, 128 a step: three steps an epoch, of which the last is a smaller one."""
    words = ["trainer.max_epochs=2", "trainer.val_check_interval=1.5ep", "data.batch_size=128"]
    small = [word for word in SMALL if not word.startswith("trainer.max_steps")]
    done = run_here(tmp_path, "train", "hydra.run.dir=run", *small, *words)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "run"
    assert "6 steps, 2 epochs" in done.stdout
    rows = metrics(path)
    assert [float(row["epoch"]) for row in rows if row["train/loss"]] == pytest.approx(
        [step / 3 for step in range(1, 7)]
    )
    # And no other: the final evaluation is no point of the curve.
    validated = {row["step"]: float(row["val/loss"]) for row in rows if row["val/loss"]}
    assert [*validated] == ["4", "6"]
    assert len(rows) == 6 + 2
    assert not any(column.startswith("test/") for column in rows[0])
    best = min(validated, key=lambda step: validated[step])
    assert summary(path)["best/step"] == int(best)
    assert summary(path)["val/loss"] == pytest.approx(validated[best], rel=1e-6)
    assert f"best checkpoint (step {best})" in done.stdout
