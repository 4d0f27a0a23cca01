"""A model that tells the class of two texts: trained, evaluated, asked, resumed, exported."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import everytoken
from everytoken.commands.export import export
from support.helpers import assert_refused, run_here

pytestmark = pytest.mark.slow

ANSWERS = {"yes": ["sure", "fine", "gladly"], "no": ["never", "nope", "by no means"]}
SMALL = [
    *("task=sequence_classification", "data=labelled", "data.path=pairs.tsv"),
    *("data.text=question", "data.second=answer", "data.batch_tokens=null", "data.batch_size=16"),
    *("logger=none", "model.width=32", "model.ffn_width=48", "model.layers=1"),
    *("trainer.max_steps=6", "trainer.val_check_interval=3", "trainer.log_every_n_steps=1"),
    *("callbacks.machine_use=null", "callbacks.last_checkpoint.every_n_steps=3"),
    *("callbacks.best_checkpoint.monitor=val/macro_f1", "hydra.run.dir=run"),
]
LINES = ["question 2\tsure", "question 70\tby no means", "", "question 5\tfine"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classes")
    rows = [
        f"question {i}\t{answers[i % 3]}\t{label}"
        for i in range(60)
        for label, answers in ANSWERS.items()
    ]
    (path / "pairs.tsv").write_text("\n".join(["question\tanswer\tlabel", *rows]) + "\n")
    done = run_here(path, "train", *SMALL)
    assert done.returncode == 0, done.stderr
    return path


def test_it_is_evaluated_with_macro_f1_and_a_confusion_matrix(folder: Path) -> None:
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert 0 <= summary["test/macro_f1"] <= 1
    assert run_here(folder, "eval", "run=run", "split=test").returncode == 0
    found = json.loads((folder / "run" / "eval-test-best.json").read_text())
    assert found["test/macro_f1"] == summary["test/macro_f1"]
    data = json.loads((folder / "run" / "data.json").read_text())["splits"]["test"]
    assert sum(count for _, _, count in found["confusion"]) == data["examples"]
    shown = json.loads((folder / "run" / "report.json").read_text())["confusion"]
    assert shown["split"] == "test"
    assert sum(map(sum, shown["counts"])) == data["examples"]


def test_lines_are_told_and_go_out_with_the_same_probabilities(folder: Path) -> None:
    (folder / "lines.txt").write_text("\n".join(LINES) + "\n")
    done = run_here(folder, "generate", "run=run", "input=lines.txt", "output=told.txt")
    assert done.returncode == 0, done.stderr
    told = (folder / "told.txt").read_text().split("\n")[:-1]
    assert told == everytoken.load(folder / "run", device="cpu").generate(LINES)
    assert told[2] == ""
    assert "config.json" in export(folder / "run", folder / "out", "best")
    pipeline: Any = transformers.pipeline("text-classification", str(folder / "out"))
    for line, answer in zip(LINES, told, strict=True):
        if line:
            text, second = line.split("\t")
            [found] = pipeline([{"text": text, "text_pair": second}])
            assert f"{found['label']}\t{found['score']:.4f}" == answer


def test_it_goes_on_bit_for_bit(folder: Path) -> None:
    again = folder / "again"
    shutil.copytree(folder / "run", again)
    for name in ("summary.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        (again / name).unlink()
    done = run_here(folder, "train", "resume=again")
    assert done.returncode == 0, done.stderr
    one, other = (
        torch.load(folder / run / "checkpoints" / "last.ckpt", weights_only=False)
        for run in ("run", "again")
    )
    assert one["global_step"] == other["global_step"] == 6
    for name, weight in one["state_dict"].items():
        assert torch.equal(weight, other["state_dict"][name]), name


@pytest.mark.bad_input
def test_what_makes_no_sense_is_refused(folder: Path) -> None:
    (folder / "lines.txt").write_text("one text\n")
    asked = ["generate", "run=run", "input=lines.txt", "log_level=warning"]
    assert_refused(run_here(folder, *asked), "line 1", "two texts with a tab between")
    assert_refused(run_here(folder, *asked, "decoding=beam"), "tells classes", "no decoding")
    assert_refused(run_here(folder, *asked, "stream=true"), "tells classes", "stream=false")
    evaluated = run_here(folder, "eval", "run=run", "max_new_tokens=4")
    assert_refused(evaluated, "an encoder, which generates nothing")
    other = ["model=project", "data.padding_side=right", "hydra.run.dir=other"]
    sized = [word for word in SMALL if not word.startswith(("model.", "hydra."))]
    assert_refused(run_here(folder, "train", *sized, *other), "project.model.LSTM tells no classes")


def test_a_text_may_be_of_several_classes_in_all_commands(tmp_path: Path) -> None:
    words = {"red": "rose", "blue": "sky", "green": "leaf"}
    kinds = [[name for bit, name in enumerate(words) if i >> bit & 1] for i in range(8)]
    rows = [
        f"{' '.join([f'no {i}', *(words[name] for name in kinds[i % 8])])},{'|'.join(kinds[i % 8])}"
        for i in range(80)
    ]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    own = ["task=multi_label_classification", "data=labelled", "data.path=a.csv"]
    own += ["data.label_separator=|", "callbacks.best_checkpoint.monitor=val/micro_f1"]
    sizes = [word for word in SMALL if "data." not in word and "task=" not in word]
    sizes = [word for word in sizes if "data=" not in word and "monitor" not in word]
    sizes += ["data.batch_tokens=null", "data.batch_size=16", "label_smoothing=0.1"]
    done = run_here(tmp_path, "train", *own, *sizes)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert run_here(tmp_path, "eval", "run=run", "split=test").returncode == 0
    found = json.loads((tmp_path / "run" / "eval-test-best.json").read_text())
    for name in ("loss", "accuracy", "micro_f1", "macro_f1"):
        assert found[f"test/{name}"] == summary[f"test/{name}"]
    labels = json.loads((tmp_path / "run" / "data.json").read_text())["splits"]["train"]["counts"]
    assert {*labels["labels"]} == {*words}
    assert labels["dropped"] == {}
    lines = ["no rose", "sky leaf", "7"]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
    asked = ["run=run", "input=lines.txt", "output=told.txt"]
    assert run_here(tmp_path, "generate", *asked).returncode == 0
    told = (tmp_path / "told.txt").read_text().split("\n")[:-1]
    export(tmp_path / "run", tmp_path / "out", "best")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    pipeline: Any = transformers.pipeline("text-classification", str(tmp_path / "out"), top_k=None)
    for line, answer in zip(lines, told, strict=True):
        [all_of_it] = pipeline([line])
        above = [f"{one['label']}\t{one['score']:.4f}" for one in all_of_it if one["score"] > 0.5]
        assert "\t".join(above) == answer
