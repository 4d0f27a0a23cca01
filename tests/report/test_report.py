"""The report's values: curves, the picture of a micro-batch, what is told of a run, comparisons."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide
from everytoken.errors import UserError
from everytoken.report.callback import WriteReport
from everytoken.report.collect import by_column, collect, curve, train_loss
from everytoken.report.compare import check_comparison, compare, different, labels
from everytoken.report.page import render, write_page
from everytoken.report.picture import (
    MOMENTS,
    Picture,
    choose_examples,
    thin_out,
    token_text,
)
from everytoken.report.samples import TOKENS, samples
from everytoken.run.directory import Run
from everytoken.run.metrics_reader import read_metrics
from everytoken.tokenizer.learned import train_bpe, train_byte, train_char
from support.fitting import make_module
from support.helpers import assert_refused, reference_loss, run
from support.reports import HOSTILE, TOKENIZER, make_run, make_split


def test_curves_are_read_without_the_evaluation_of_the_best_checkpoint(tmp_path: Path):
    file = tmp_path / "metrics.csv"
    file.write_text("step,a,val/b,test/b\n1,5,,\n2,4,,\n2,,7,\n2,,6.5,\n2,,,6\n")
    assert by_column(read_metrics(Run(tmp_path))) == {
        "a": {1: 5.0, 2: 4.0},
        "val/b": {2: 7.0},
        "test/b": {2: 6.0},
    }


def test_a_line_that_is_being_written_and_odd_values_do_no_harm(tmp_path: Path):
    file = tmp_path / "metrics.csv"
    file.write_bytes(b"step,a,b\n1,nan,inf\n2,x\0,3\nfoo,1,1\n3,\n")
    found = by_column(read_metrics(Run(tmp_path)))
    assert curve(found["a"]) == ([1], [None])
    assert curve(found["b"]) == ([1, 2], [None, 3.0])
    file.write_text("")
    assert read_metrics(Run(tmp_path)) == []


def test_a_long_curve_keeps_its_ends_and_its_extremes():
    series = {step: float(np.sin(step)) for step in range(100_000)}
    series[4321], series[77], series[99_998] = 50.0, -50.0, float("inf")
    steps, values = curve(series)
    assert 500 < len(steps) <= 1000
    assert (steps[0], steps[-1]) == (0, 99_999)
    assert values[steps.index(4321)] == 50.0
    assert values[steps.index(77)] == -50.0
    assert curve({3: 1.0, 1: 2.0}) == ([1, 3], [2.0, 1.0])


@pytest.mark.parametrize("count", [1, 3, 12])
def test_examples_of_the_picture_differ_in_length(count: int):
    lengths = np.array([30, 31, 32, 30, 7, 90, 15, 22, 60, 31])
    chosen = choose_examples(lengths, count, positions=60)
    found = lengths[chosen].tolist()
    assert len(set(chosen)) == len(chosen) == min(count, 9)
    assert found == sorted(found)
    assert 90 not in found
    if count == 3:
        assert found == [7, 32, 60]
    assert max(lengths[choose_examples(lengths + 100, 3, 60)]) == 90  # all are too long


def losses_by_hand(module: Any, picture: Picture) -> list[float]:
    hidden = module.model(picture.batch)
    return reference_loss(module.head(hidden), picture.batch.targets)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("positions", [4, 60])
def test_the_picture_has_the_loss_of_each_target_that_is_shown(
    side: PaddingSide, positions: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("everytoken.report.picture.WIDEST", positions)
    monkeypatch.setattr("everytoken.report.picture.AT_ONCE", 5)  # of 12 targets
    module = make_module().eval()
    tokenizer = train_char(["abcdef"])  # the module's vocabulary is small
    split = make_split(["a", "bcd", "efabc"], pairs=False, tokenizer=tokenizer)
    split.batching = replace(split.batching, padding_side=side)
    picture = Picture(split, [0, 1, 2], tokenizer, computes_on_padding=False)
    drawing = picture.drawing
    assert [row["length"] for row in drawing["rows"]] == [2, 4, 6]
    assert (drawing["real"], drawing["targets"], drawing["positions"]) == (12, 12, 18)
    assert drawing["computed"] == 12
    found = picture.losses(module)
    expected = losses_by_hand(module, picture)
    assert found["sum"] == pytest.approx(sum(expected), rel=1e-3)
    last = expected[6:]
    kept = expected[:6] + (last if positions == 60 else last[:4] if side == "right" else last[2:])
    assert found["loss"] == pytest.approx(kept, rel=5e-3)  # three digits
    labels = [text for row in drawing["rows"] for text in row["labels"]]
    assert len(labels) == len(kept)
    with torch.no_grad():
        best = module.head(module.model(picture.batch)).argmax(-1)
    assert len(found["wrong"]) == sum(
        shown and bool(b != t)
        for shown, b, t in zip(picture.is_shown, best, picture.batch.targets, strict=True)
    )
    assert found["wrong"]  # an untrained model


def continued(module: Any, ids: list[int], eos: int) -> list[int]:
    """The most likely token, again and again, each time from the beginning."""
    found: list[int] = []
    while len(found) < TOKENS and eos not in found:
        read = torch.tensor([[*ids, *found]])
        labels = torch.full_like(read, IGNORE_INDEX)
        labels[0, -1] = 0
        lengths = torch.tensor([read.shape[1]])
        batch = Batch.make(input_ids=read, labels=labels, lengths=lengths)
        found.append(int(module.head(module.model(batch)).argmax()))
    return [token for token in found if token != eos]


@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_a_language_model_goes_on_from_the_middle_of_the_longest_texts(side: PaddingSide):
    module = make_module().eval()
    tokenizer = train_char(["abcdef"])
    split = make_split(["a", "bcd", "efabc"], pairs=False, tokenizer=tokenizer)
    split.batching = replace(split.batching, padding_side=side)
    batch = Picture(split, [0, 1, 2], tokenizer, computes_on_padding=False).batch
    before = torch.get_rng_state()
    first, second = samples(module, batch, tokenizer, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert (first["prompt"], first["text"]) == ("ef", "abc")
    assert (second["prompt"], second["text"]) == ("b", "cd")
    special = tokenizer.special
    ids = [special.bos, *tokenizer.encode(["ef"])[0]]
    assert first["sample"] == tokenizer.show(continued(module, ids, special.eos))


def test_what_is_no_language_model_has_no_samples():
    split = make_split(["abc<>", "<script>"], tokenizer=TOKENIZER)
    batch = Picture(split, [0, 1], TOKENIZER, computes_on_padding=True).batch
    assert samples(make_module(), batch, TOKENIZER, 2) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"module.label_smoothing": "0.0", "module.z_loss": "0.0"}, ""),
        ({"module.label_smoothing": "0.1"}, "with label smoothing 0.1"),
        (
            {"label_smoothing": "0.2", "z_loss": "1e-4"},
            "with label smoothing 0.2, with z-loss 1e-4",
        ),
        ({"module._target_": "everytoken.training.TokenModule"}, ""),
        ({"module._target_": "project.Focal"}, "of Focal"),
    ],
)
def test_it_is_known_what_training_adds_to_the_loss(settings: dict[str, str], said: str):
    assert train_loss(settings) == said


def test_a_run_that_is_killed_before_its_summary_is_written_is_no_longer_running(tmp_path: Path):
    made = make_run(tmp_path / "run", finished=False)
    assert collect(made)["state"] == "running"
    content = collect(made, {"test/loss": 0.5})
    assert (content["state"], content["summary"]) == ("finished", {"test/loss": 0.5})


def test_the_picture_of_pairs_has_both_sides():
    split = make_split(["abc<>", "<script>"], tokenizer=TOKENIZER)
    drawing = Picture(split, [0, 1], TOKENIZER, computes_on_padding=True).drawing
    first, second = drawing["rows"]
    assert "".join(second["source"]) == "<script><eos>"
    assert second["inputs"] == ["<bos>", "<", "s", "c", "r"]
    assert second["labels"] == ["<", "s", "c", "r", "<eos>"]
    assert first["source_length"] == 6
    assert drawing["computed"] == drawing["positions"] == 2 * (9 + 5)


def test_tokens_are_shown_so_that_each_is_seen():
    special = TOKENIZER.special
    texts = {c: token_text(TOKENIZER, TOKENIZER.encode([c])[0][0]) for c in HOSTILE}
    assert texts[" "] == "␣"
    assert texts["\n"] == "⏎"
    assert texts["\0"] == "␀"
    assert texts["\u202e"] == "U+202E"
    assert texts["<"] == "<"
    assert token_text(TOKENIZER, special.eos) == "<eos>"
    assert token_text(TOKENIZER, 99_999) == "#99999"
    byte = train_byte([])
    assert [token_text(byte, t) for t in byte.encode(["é x"])[0]] == ["C3", "A9", "␣", "x"]
    words = train_bpe(["the the the the"], 280)
    assert "␣the" in [token_text(words, t) for t in words.encode(["the the"])[0]]


def test_of_many_moments_the_first_the_last_and_some_between_are_kept():
    moments: list[dict[str, Any]] = []
    for step in range(200):
        moments = thin_out([*moments, {"step": step}], targets=100)
        assert len(moments) <= MOMENTS
    assert moments[0]["step"] == 0
    assert moments[-1]["step"] == 199
    assert len(moments) > MOMENTS // 3
    assert len(thin_out([{"step": step} for step in range(8)], targets=3000)) == 5


def test_a_finished_run_is_told_whole(tmp_path: Path):
    found = collect(make_run(tmp_path / "run"))
    assert found["state"] == "finished"
    assert found["step"] == 40
    assert found["curves"]["loss"]["val"] == ([10, 20, 30, 40], [0.5, 0.25, 0.166667, 0.125])
    assert found["curves"]["bleu"].keys() == {"val"}
    assert found["curves"]["real_tokens_per_second"]["run"][1][-1] == 360
    assert found["tokens"][1][0] == 100
    assert found["config"] == {"name": "mine", "seed": "1", "text": HOSTILE}
    assert found["command"].endswith("run --config-name config")
    assert found["summary"]["test/bleu"] == 98
    json.dumps(found, allow_nan=False)


def test_a_run_that_goes_on_or_was_stopped_says_so(tmp_path: Path):
    assert collect(make_run(tmp_path / "a", finished=False))["state"] == "running"
    stopped = make_run(tmp_path / "b", finished=False, state="stopped")
    assert collect(stopped)["state"] == "stopped"
    (stopped.path / "report.json").unlink()
    stopped.data_file.unlink()
    assert collect(stopped)["state"] == "running"  # by all that can be known


def test_what_the_environment_says_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_OF_TEST", "hunter2")
    reference = "${oc.env:SECRET_OF_TEST}"
    path = "https://me:${oc.env:SECRET_OF_TEST}@example.org/a.txt"
    made = make_run(tmp_path / "run", logger={"wandb": {"api_key": reference}}, data={"path": path})
    made.note_resumption([], [f"+logger.wandb.api_key='{reference}'", f"data.path='{path}'"])
    other = make_run(tmp_path / "other", lists=[{"token": reference}])
    write_page(tmp_path / "page.html", "x", {"runs": [collect(made)]})
    for page in (tmp_path / "page.html", compared(tmp_path, made.path, other.path, out="both")):
        text = page.read_text()
        assert reference in text
        assert "hunter2" not in text


def test_no_text_breaks_out_of_the_page():
    page = render(HOSTILE, {"runs": [{"name": HOSTILE, "{{title}}": "{{page.js}}"}]})
    assert page.count("<script") == page.count("</script>") == 2
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert block is not None
    assert json.loads(block[1])["runs"][0] == {"name": HOSTILE, "{{title}}": "{{page.js}}"}
    assert "http:" not in page.replace("http://www.w3.org/", "")
    assert "https:" not in page


def test_a_report_that_cannot_be_written_is_one_line_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = make_run(tmp_path / "run")
    (made.path / "report.html").mkdir()  # as good as a full disk
    lines: list[str] = []
    monkeypatch.setattr("everytoken.report.callback.warn", lines.append)
    trainer = SimpleNamespace(default_root_dir=made.path, is_global_zero=True)
    report = WriteReport(sequences=12, positions=60, predictions=3)
    for _ in range(3):
        report.write(trainer, "running")  # pyright: ignore
    [line] = lines
    assert "report.html can't be written" in line
    assert "training goes on" in line
    assert not list(made.path.glob("*.tmp"))


def test_no_report_is_written_of_nothing_nor_by_other_ranks(tmp_path: Path):
    report = WriteReport(sequences=12, positions=60, predictions=3)
    made = make_run(tmp_path / "run")
    other = SimpleNamespace(default_root_dir=made.path, is_global_zero=False)
    report.write(other, "running")  # pyright: ignore
    assert not (made.path / "report.html").exists()
    (made.path / "metrics.csv").unlink()
    first = SimpleNamespace(default_root_dir=made.path, is_global_zero=True)
    report.write(first, "running")  # pyright: ignore
    assert not (made.path / "report.html").exists()


def test_reports_that_take_too_long_are_left_out():
    report = WriteReport(sequences=12, positions=60, predictions=3)
    assert report._is_due()
    report.seconds = 10.0
    assert not report._is_due()
    report.started -= 10_000
    assert report._is_due()


def compared(tmp_path: Path, *names: object, out: str = "page.html") -> Path:
    return compare(OmegaConf.create({"run": list(names), "out": str(tmp_path / out)}))


def test_a_comparison_has_all_runs_and_the_settings_that_differ(tmp_path: Path):
    make_run(tmp_path / "a", seed=1)
    make_run(tmp_path / "b", seed=2, finished=False, lr=0.1)
    page = compared(tmp_path, tmp_path / "a", tmp_path / "b").read_text()
    block = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert block is not None
    content = json.loads(block[1])
    assert [one["label"] for one in content["runs"]] == ["seed=1", "seed=2 lr=0.1"]
    assert content["different"] == {"seed": ["1", "2"], "lr": [None, "0.1"]}


def test_a_page_is_written_over_only_by_one_that_shows_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        make_run(tmp_path / name, steps=3)
    for names, page in [
        ("ab", "compare.html"),
        ("ba", "compare.html"),
        ("bc", "compare-2.html"),
        ("abc", "compare.html"),
        ("ab", "compare-3.html"),
        ("bc", "compare-2.html"),
    ]:
        assert compare(OmegaConf.create({"run": [*names], "out": None})) == Path(page)
    write_page(tmp_path / "report.html", "a", {"runs": [collect(Run(tmp_path / "a"))]})
    written = {file: file.read_bytes() for file in tmp_path.glob("*.html")}
    for out, message in [("compare.html", "compares other runs"), ("report.html", "of a run")]:
        with pytest.raises(UserError, match=f"{message}: give another file with out=FILE"):
            compare(OmegaConf.create({"run": ["a", "b"], "out": out}))
    assert {file: file.read_bytes() for file in tmp_path.glob("*.html")} == written


def test_the_folder_of_a_sweep_stands_for_its_runs(tmp_path: Path):
    for job in range(11):
        make_run(tmp_path / "sweep" / str(job), steps=3, seed=job)
    page = compared(tmp_path, tmp_path / "sweep").read_text()
    assert [int(n) for n in re.findall(r'"label":"seed=(\d+)"', page)] == list(range(11))


def test_runs_with_names_of_their_own_are_called_by_them():
    paths = [Path("/x/1/0"), Path("/x/2/0")]
    one: dict[str, list[str | None]] = {"optimizer.lr": ["0.1", "0.2"], "name": ["a-1", "a-2"]}
    two: dict[str, list[str | None]] = {"data.path": ["a", "b"], "output.path": ["c", None]}
    assert labels(["a", "b"], paths, one) == ["a", "b"]
    assert labels(["a-1", "a-2"], paths, one) == ["lr=0.1", "lr=0.2"]
    assert labels(["a", "a"], paths, {**one, "seed": ["1", "2"], "logger.x": ["3", "4"]}) == [
        "lr=0.1 seed=1",
        "lr=0.2 seed=2",
    ]
    assert labels(["a", "a"], paths, two)[0] == "data.path=a output.path=c"
    assert labels(["a", "a"], paths, {}) == ["1/0", "2/0"]
    many: dict[str, list[str | None]] = {f"model.{n}": ["1", "2"] for n in range(4)}
    assert labels(["a-1", "a-2"], paths, many) == ["a-1", "a-2"]
    assert different([{"a": "1"}, {"a": "1"}]) == {}


@pytest.mark.bad_input
def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path: Path):
    a, b = (make_run(tmp_path / name).path for name in "ab")
    empty = Run.create(tmp_path / "c", OmegaConf.create({"name": "mine"})).path
    (tmp_path / "mine.txt").write_text("precious")
    for names, out, message in [
        ([a], "x", "a alone"),
        ([a, tmp_path / "b" / ".." / "a"], "x", "twice"),
        ([a, tmp_path / "none"], "x", "no run directory"),
        ([a, tmp_path], "x", "twice"),
        ([a, empty], "x", "no metrics.csv yet"),
        ([], "x", "got none"),
        ([a, b], "mine.txt", "is no report"),
        ([a, b], "none/x", "can't write"),
    ]:
        with pytest.raises(UserError, match=message) as refused:
            compared(tmp_path, *map(str, names), out=out)
        assert "\n" not in str(refused.value)
    assert (tmp_path / "mine.txt").read_text() == "precious"
    (b / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"can't read .*b"):
        compared(tmp_path, str(a), str(b))
    for bad in ({"run": "???", "out": "x"}, {"run": [{}], "out": "x"}, {"run": ["a"], "out": 3}):
        with pytest.raises(UserError):
            check_comparison(OmegaConf.create(bad))


def test_python_m_compare_writes_the_page_or_says_why_not(tmp_path: Path):
    for name in "ab":
        make_run(tmp_path / name)
    done = run(tmp_path, "compare", "run=[a,b]")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "written: compare.html\n"
    assert (tmp_path / "compare.html").exists()
    assert_refused(run(tmp_path, "compare"), "which runs?", "run=[DIR,DIR]")
