"""Several corpora are one, and what any of them holds out is trained on from none."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from everytoken.commands.build import build_data
from everytoken.commands.library import build
from everytoken.config.check import checked
from everytoken.config.values import check_training
from everytoken.corpora.mix import PART, Mix
from everytoken.errors import UserError


class Part:
    """Texts by split."""

    def __init__(self, fields: tuple[str, ...] = ("text",), **splits: str) -> None:
        self.fields = fields
        self.splits = splits

    def examples(self, split: str) -> Iterable[dict[str, str]]:
        return [dict.fromkeys(self.fields, letter) for letter in self.splits[split]]

    def fingerprint(self) -> str:
        return str(self.splits)


def texts(mix: Mix, split: str) -> list[tuple[str, str]]:
    return [(row[PART], row["text"]) for row in mix.examples(split)]


def test_what_one_holds_out_is_trained_on_from_none() -> None:
    mix = Mix(
        {"a": Part(train="abcx", val="dy", test="e"), "b": Part(train="edf", val="ge", test="x")}
    )
    assert texts(mix, "test") == [("0", "e"), ("1", "x")]
    assert texts(mix, "val") == [("0", "d"), ("0", "y"), ("1", "g")]
    assert texts(mix, "train") == [("0", "a"), ("0", "b"), ("0", "c"), ("1", "f")]
    reason = "also in a held-out split of another part"
    assert mix.dropped["train"] == {f"a: {reason}": 1, f"b: {reason}": 2}
    assert mix.dropped["val"] == {f"b: {reason}": 1}
    assert texts(mix, "train") == texts(mix, "train")


def test_what_a_part_repeats_of_its_own_is_its_own_affair() -> None:
    mix = Mix({"a": Part(train="ab", val="b", test=""), "b": Part(train="c", val="", test="")})
    assert texts(mix, "train") == [("0", "a"), ("0", "b"), ("1", "c")]
    assert mix.dropped["train"] == {}


def test_the_first_of_each_part() -> None:
    mix = Mix({"a": Part(train="abc", val="", test=""), "b": Part(train="def", val="", test="")})
    assert [row["text"] for row in mix.examples("train").first(2)] == ["a", "b", "d", "e"]


def test_the_fields_that_all_have() -> None:
    both = Part(("source", "target", "text"))
    assert Mix({"a": both, "b": Part(("target", "source"))}).fields == ("source", "target")
    with pytest.raises(UserError, match="no field in common"):
        Mix({"a": Part(), "b": Part(("source",))})


def test_a_mix_changes_with_any_part() -> None:
    marks = {Mix({"a": Part(train=text), "b": Part(train="x")}).fingerprint() for text in "cd"}
    assert len(marks) == 2


FILES = "{a: {data: text, path: a.txt}, b: {data: text, path: b.txt, weight: 3, split_seed: 5}}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("".join(f"short {i}\n" for i in range(60)), encoding="utf-8")
    Path("b.txt").write_text("".join(f"{'long ' * 9}{i}\n" for i in range(60)), encoding="utf-8")
    return tmp_path


def overrides(parts: str, *more: str) -> list[str]:
    return ["task=causal_lm", "data=mix", "tokenizer=byte", f"data.parts={parts}", *more]


@pytest.mark.parametrize("limit", ["null", "20"])
def test_the_command_line_mixes(folder: Path, limit: str) -> None:
    cfg = checked("train", overrides(FILES, f"data.limit_examples={limit}"), check_training)
    data = build_data(cfg, ("train", "val"))
    sizes = data.counts["train"].parts
    assert sizes == ([20, 20] if limit == "20" else sizes)
    assert min(sizes) >= 20
    lengths = data.splits["train"].lengths
    steps = data.train_steps()
    read = [i for epoch in range(30) for i in steps.epoch(epoch).order[:]]
    of_b = sum(int(lengths[i]) for i in read if i >= sizes[0])
    assert of_b / lengths[read].sum() == pytest.approx(0.75, abs=0.01)


def test_a_second_text_of_all_parts_is_read() -> None:
    parts = "{a: {data: labelled, path: a, second: s}, b: {data: labelled, path: b, second: t}}"
    words = ["task=sequence_classification", *overrides(parts)[1:]]
    assert checked("train", words, check_training).task.objective.second == "s"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ("[a,b]", "must be corpora by name"),
        ("{a: pydoc}", "data.parts.a must say which data it is"),
        ("{a: {data: pydoc}}", "at least two corpora"),
        ("{a: {data: nope}, b: {data: pydoc}}", "data.parts.a.data=nope: choose one of"),
        ("{a: {data: mix}, b: {data: pydoc}}", "data.parts.a.data=mix: choose one of"),
        ("{a: {data: text}, b: {data: pydoc}}", "data.parts.a needs path"),
        ("{a: {data: pydoc, sed: 3}, b: {data: pydoc}}", "data.parts.a.sed is read by nothing"),
        ("{a: {data: pydoc, weight: -1}, b: {data: pydoc}}", "weight must be above 0, got -1"),
        ("{a: {data: pydoc}, b: {data: dates}}", "no field in common"),
        ("{a: {data: pydoc}, b: {data: text, path: nope.txt}}", "no file nope.txt"),
        (
            "{a: {data: labelled, path: a.csv, second: s}, b: {data: date_languages}}",
            "data.parts.b has no second text, and others have one",
        ),
    ],
)
def test_parts_that_make_no_mix(folder: Path, parts: str, said: str) -> None:
    Path("a.csv").write_text("text,s,label\na,b,c\n")
    with pytest.raises(UserError, match=said):
        build(*overrides(parts))
