"""What was said of a run's files isn't taken over for others that are named in their place."""

from pathlib import Path
from typing import Any

import pytest

from everytoken.errors import UserError
from everytoken.run.other_data import other_data
from everytoken.run.reading import READING
from support.continuing import command, continued_config, new_run

OTHER_WAY = ["data.separator=pipe", "data.quoted=false", "data.column_names=[source,target,text]"]
NAMES = ["data.source=source", "data.target=target"]
KINDS = {
    "pairs": ["data=pairs", "data.path=own.csv", *NAMES],
    "text": ["data=text", "task=causal_lm", "data.path=own.csv"],
    "hub": ["data=hub", "data.name=own", *NAMES],
}
ANEW = dict.fromkeys(READING)


def read(folder: Path, started: list[str], typed: list[str], split: str = "test") -> dict[str, Any]:
    """How the corpus of an evaluation is read."""
    run = new_run(folder / "run", *started)
    data = other_data(run, command(*typed), split)
    assert data is not None
    return {key: data["corpus"][key] for key in READING}


@pytest.mark.parametrize(
    ("kind", "prefix", "typed"),
    [
        ("pairs", "data", "data.path=other.csv"),
        ("pairs", "data.corpus", "data.test_path=other.csv"),
        ("text", "data.corpus", "data.path=other.csv"),
        ("text", "data", "data.test_path=other.csv"),
        ("text", "data.corpus", "++data.test_path=other.csv"),
        ("hub", "data", "data.name=other"),
        ("hub", "data.corpus", "data.test_split=other"),
        ("hub", "data.corpus", "data.name=other"),
    ],
)
def test_other_files_are_read_anew(tmp_path: Path, kind: str, prefix: str, typed: str):
    way = [line.replace("data.", f"{prefix}.", 1) for line in OTHER_WAY]
    assert read(tmp_path, [*KINDS[kind], *way], [typed]) == ANEW
    told = read(tmp_path / "told", [*KINDS[kind], *way], [typed, f"{prefix}.quoted=true"])
    assert told == ANEW | {"quoted": True}


@pytest.mark.parametrize(
    ("started", "typed", "key"),
    [
        (["data.corpus.test=own-test.csv"], "data.test_path=other.csv", "test"),
        (["++data.corpus.test=own-test.csv"], "data.test_path=other.csv", "test"),
        (["data.corpus.val=own-val.csv"], "data.val_path=other.csv", "val"),
        (["data.corpus.train=own.csv"], "data.path=other.csv", "train"),
        (["data.corpus.column=mine"], "data.text=other.csv", "column"),
    ],
)
def test_what_is_typed_now_wins_over_the_argument_that_it_becomes(
    tmp_path: Path, started: list[str], typed: str, key: str
):
    run = new_run(tmp_path / "run", *KINDS["text"], *started)
    assert run.config.data.corpus[key] == started[0].partition("=")[2]
    assert continued_config(run, typed).data.corpus[key] == "other.csv"
    assert continued_config(run, "data.num_workers=0").data.corpus == run.config.data.corpus
    if key in ("test", "column"):
        data = other_data(run, command(typed), "test")
        assert data is not None
        assert data["corpus"][key] == "other.csv"


def test_the_same_files_are_read_as_they_were(tmp_path: Path):
    found = read(tmp_path, [*KINDS["text"], *OTHER_WAY], ["data.microbatch_tokens=99"])
    assert found == {
        "separator": "pipe",
        "quoted": False,
        "column_names": ["source", "target", "text"],
    }
    found = read(tmp_path / "again", [*KINDS["text"], *OTHER_WAY], ["data.quoted=true"])
    assert found["separator"] == "pipe"


MIX = (
    *("data=mix", "task=causal_lm"),
    "data.parts={a: {data: text, path: own.csv, separator: pipe, quoted: false}, b: {data: pydoc}}",
)


@pytest.mark.parametrize(
    ("typed", "separator", "quoted"),
    [
        (["data.parts.a.path=other.csv"], None, None),
        (["data.parts={a: {data: text, path: other.csv}}"], None, None),
        (["data.parts.a={path: other.csv, quoted: true}"], None, True),
        (["data.parts.a.path=other.csv", "data.parts.a.quoted=true"], None, True),
        (["+data.parts.b.weight=2"], "pipe", False),
    ],
)
def test_a_part_of_a_mixture_is_read_anew_where_its_files_are_others(
    tmp_path: Path, typed: list[str], separator: str | None, quoted: bool | None
):
    run = new_run(tmp_path / "run", *MIX)
    going_on = continued_config(run, *typed).data.corpus.parts.a
    assert (going_on.separator, going_on.quoted) == (separator, quoted)
    if "weight" not in typed[0]:
        data = other_data(run, command(*typed), "test")
        assert data is not None
        part = data["corpus"]["parts"]["a"]
        assert (part["separator"], part["quoted"]) == (separator, quoted)


@pytest.mark.bad_input
def test_files_of_two_origins_in_a_part_are_not_read_in_one_way_without_a_word(tmp_path: Path):
    run = new_run(tmp_path / "run", *MIX)
    with pytest.raises(UserError, match=r"other\.csv .*own\.csv.* type data\.parts\.a\.separ"):
        continued_config(run, "+data.parts.a.test_path=other.csv")


def test_another_choice_brings_its_own_way(tmp_path: Path):
    typed = ["data=pairs", "data.path=other.csv", *NAMES]
    assert read(tmp_path, [*KINDS["hub"], *OTHER_WAY], typed) == ANEW


def test_a_run_that_goes_on_with_other_files_reads_them_anew(tmp_path: Path):
    run = new_run(tmp_path / "run", *KINDS["pairs"], *OTHER_WAY)
    cfg = continued_config(run, "data.path=other.csv")
    assert {key: cfg.data.corpus[key] for key in READING} == ANEW
    assert (cfg.data.separator, cfg.data.source) == (None, "source")
    assert continued_config(run, "data.num_workers=0").data.separator == "pipe"


@pytest.mark.bad_input
def test_files_of_two_origins_are_not_read_in_one_way_without_a_word(tmp_path: Path):
    started = [*KINDS["text"], *OTHER_WAY]
    with pytest.raises(UserError, match=r"other\.csv .*own\.csv.* type data\.separator=pipe"):
        read(tmp_path, started, ["data.test_path=other.csv"], "val")
    found = read(tmp_path / "told", started, ["data.test_path=other.csv", *OTHER_WAY], "val")
    assert found["separator"] == "pipe"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("split", "typed", "give"),
    [
        ("test", "data.path=other.csv", r"own-test\.csv: give data\.test_path=other\.csv"),
        ("test", "data.val_path=other.csv", r"own-test\.csv: give data\.test_path=other\.csv"),
        ("test", "data.test_fraction=0.5", r"own-test\.csv: leave it out"),
    ],
)
def test_other_files_of_a_split_that_is_not_measured_are_refused(
    tmp_path: Path, split: str, typed: str, give: str
):
    with pytest.raises(UserError, match=f"changes nothing of what is measured.*{give}"):
        read(tmp_path, [*KINDS["text"], "data.test_path=own-test.csv"], [typed], split)
