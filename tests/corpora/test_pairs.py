"""Pairs from two files or two columns: line n goes with line n, always."""

from pathlib import Path
from typing import Any

import pytest

from everytoken.config.keys import conf_dir
from everytoken.corpora.pairs import Pairs
from everytoken.corpora.splits import BLANK, LEAKED, SPLITS
from everytoken.errors import UserError
from support.corpus_files import write, write_table

NOWHERE = {"path": None, "source": None, "target": None}


def place(source: Any = None, target: Any = None, path: Any = None) -> dict[str, Any]:
    values = {"path": path, "source": source, "target": target}
    return {key: str(v) if isinstance(v, Path) else v for key, v in values.items()}


def corpus(train: Any, val: Any = NOWHERE, test: Any = NOWHERE, share: float = 0.2) -> Pairs:
    return Pairs(train, val, test, share, share, seed=1)


def pairs(source: Pairs, split: str) -> list[tuple[str, str]]:
    return [(example["source"], example["target"]) for example in source.examples(split)]


def two_files(folder: Path, name: str, left: str, right: str) -> dict[str, Any]:
    ends = ("en.gz", "de")
    files = [write(folder / f"{name}.{e}", t) for e, t in zip(ends, (left, right), strict=True)]
    return place(*files)


def refused(*words: str, **places: Any) -> None:
    with pytest.raises(UserError) as error:
        pairs(corpus(**places), "train")
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_lines_of_two_files_go_together(tmp_path: Path) -> None:
    found = corpus(
        two_files(tmp_path, "train", "\ufeffa\r\nb\r\nc", "A\n\u2028B\nC\n"),
        two_files(tmp_path, "val", "d\n", "D\n"),
        two_files(tmp_path, "test", "e\n", "E\n"),
    )
    assert pairs(found, "train") == [("a", "A"), ("b", "\u2028B"), ("c", "C")]
    assert pairs(found, "val") == [("d", "D")]
    assert pairs(found, "test") == [("e", "E")]
    assert found.dropped == {split: {} for split in SPLITS}


def test_several_files_go_together_by_name(tmp_path: Path) -> None:
    for name in "ba":
        two_files(tmp_path, name, f"{name}1\n{name}2", f"{name.upper()}1\n{name.upper()}2")
    train = place(tmp_path / "*.en.gz", tmp_path / "*.de")
    found = corpus(train, train, train, 0)
    assert pairs(found, "test") == [("a1", "A1"), ("a2", "A2"), ("b1", "B1"), ("b2", "B2")]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz", "a.jsonl", "a.parquet"])
def test_two_columns_of_one_file(tmp_path: Path, name: str) -> None:
    rows = {"de": [f"d{n}" for n in range(50)], "en": [f"e{n}" for n in range(50)]}
    train = place("en", "de", write_table(tmp_path / name, rows))
    found = corpus(train)
    read = [pair for split in SPLITS for pair in pairs(found, split)]
    assert sorted(read) == sorted(zip(rows["en"], rows["de"], strict=True))


def test_columns_of_other_splits_are_as_in_training_unless_given(tmp_path: Path) -> None:
    files = [
        write_table(tmp_path / f"{name}.csv", {"en": [f"{name} e"], "de": [f"{name} d"]})
        for name in SPLITS
    ]
    found = corpus(place("en", "de", files[0]), place(path=files[1]), place("de", "en", files[2]))
    assert pairs(found, "val") == [("val e", "val d")]
    assert pairs(found, "test") == [("test d", "test e")]


def test_blank_lines_keep_their_place(tmp_path: Path) -> None:
    train = two_files(tmp_path, "train", "a\n\nc\n \ne\n", "A\n\n\nD\nE\n")
    other = two_files(tmp_path, "other", "x", "X")
    found = corpus(train, other, other)
    assert pairs(found, "train") == [("a", "A"), ("e", "E")]
    assert found.dropped["train"] == {BLANK: 2}
    assert found.dropped_at["train"] == {BLANK: "lines 3, 4"}


def test_pairs_of_held_out_files_are_not_trained_on(tmp_path: Path) -> None:
    found = corpus(
        two_files(tmp_path, "train", "a\nb\nb", "A\nB\nother"),
        two_files(tmp_path, "val", "b", "B"),
        two_files(tmp_path, "test", "c", "C"),
    )
    assert pairs(found, "train") == [("a", "A"), ("b", "other")]
    assert found.dropped["train"] == {LEAKED: 1}


def test_the_fingerprint_changes_with_either_file(tmp_path: Path) -> None:
    train = two_files(tmp_path, "train", "a", "A")
    seen = {corpus(train).fingerprint()}
    for file in (train["source"], train["target"]):
        write(Path(file), "something else")
        seen.add(corpus(train).fingerprint())
    assert len(seen) == 3


@pytest.mark.bad_input
@pytest.mark.parametrize("longer", [0, 1])
def test_files_of_different_lengths(tmp_path: Path, longer: int) -> None:
    texts = ["a\nb\nc\n", "A\nB\nC\n"]
    texts[longer] += "more\n\n"
    train = two_files(tmp_path, "train", *texts)
    source, target = (5, 3) if longer == 0 else (3, 5)
    counts = f"{train['source']} has {source} lines but {train['target']} has {target}"
    refused(counts, train=train, val=train, test=train)
    torn = two_files(tmp_path, "torn", "a\n\n\nb\nc\n", "a\n\nb\nc\n")
    place = r"with line n of the other (lines that are blank in one only: 3)"
    refused(place, train=torn, val=torn, test=torn)


@pytest.mark.bad_input
def test_one_file_as_two_splits(tmp_path: Path) -> None:
    train, held = two_files(tmp_path, "train", "a", "A"), two_files(tmp_path, "val", "b", "B")
    with pytest.raises(UserError) as error:
        pairs(corpus(train, held, held), "val")
    for words in ("1 also in a held-out split", "examples of its own", "data.val_source and"):
        assert words in str(error.value)
    assert "or null to hold out data.val_fraction of the training" in str(error.value)


@pytest.mark.bad_input
def test_what_is_given_in_part_or_mixed_up(tmp_path: Path) -> None:
    train = two_files(tmp_path, "train", "a", "A")
    csv = write_table(tmp_path / "a.csv", {"en": ["a"], "de": ["A"]})
    two = [train["source"], train["source"]]
    refused("data.target isn't given", train=place(train["source"]))
    refused("data.target isn't given", "names a column", train=place("en", path=csv))
    refused("data.val_source isn't given", train=train, val=place(None, train["target"]))
    refused("no file nowhere.en", train=place("nowhere.en", train["target"]))
    refused("2 files but", "has 1", train=place(two, train["target"]))
    refused(f"{csv} has columns: give data.path={csv}", train=place(csv, train["target"]))
    refused("can't read", ".csv", train=place("en", "de", train["target"]))
    refused("no column 'fr'", "'en', 'de'", train=place("en", "fr", csv))


@pytest.mark.bad_input
def test_files_whose_names_say_that_they_dont_go_together(tmp_path: Path) -> None:
    """But for lists, which say in which order they are."""
    for name in ("a.en", "aa.en.gz", "a.de", "ab.de"):
        write(tmp_path / name, "x\n")
    apart = place(str(tmp_path / "*.en*"), str(tmp_path / "*.de"))
    refused("aa.en.gz would go with", "ab.de", "give lists of files", train=apart)
    lists = place(*([str(f) for f in sorted(tmp_path.glob(p))] for p in ("*.en*", "*.de")))
    assert len(pairs(corpus(lists, share=0), "train")) == 2
    (tmp_path / "ab.de").rename(tmp_path / "aa.de")
    assert len(pairs(corpus(apart, share=0), "train")) == 2


def test_multi30k_finds_the_files_of_any_two_languages(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    for split in ("train", "val", "test_2016_flickr", "test_2017_flickr"):
        for language in ("en", "de", "fr"):
            packed = ".gz" if language != "de" else ""  # the repository itself has both
            write(tmp_path / f"{split}.lc.norm.tok.{language}{packed}", f"{split} {language}\n")

    def read(split: str, *words: str) -> list[tuple[str, str]]:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", ["experiment=multi30k", f"data.path={tmp_path}", *words])
            return pairs(instantiate(cfg.data.corpus, _convert_="all"), split)

    assert read("train") == [("train en", "train de")]
    assert read("val") == [("val en", "val de")]
    assert read("test") == [("test_2016_flickr en", "test_2016_flickr de")]
    words = ["data.source=de", "data.target=fr", "data.test_set=test_2017_flickr"]
    assert read("test", *words) == [("test_2017_flickr de", "test_2017_flickr fr")]
