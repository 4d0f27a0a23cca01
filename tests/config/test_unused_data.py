"""What is typed of a corpus and would change nothing is refused; what has a use isn't."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from everytoken.config.composing import composed
from everytoken.config.keys import conf_dir
from everytoken.config.unused_data import OF_FIELDS, OF_FILES, check_used_data
from everytoken.errors import UserError
from support.helpers import assert_refused, run_here

BASES = {
    "text": ["task=causal_lm", "data=text"],
    "chat": ["task=sft", "data=chat"],
    "labelled": ["task=sequence_classification", "data=labelled"],
    "tagged": ["task=token_classification", "data=tagged"],
    "tokens": ["task=causal_lm", "data=tokens"],
}
"""Choices whose files are data.path."""

TABLE, WITHOUT = ("csv", "tsv.gz"), ("jsonl", "json", "parquet")
VALUES = {
    "separator": "';'",
    "quoted": "true",
    "column_names": "[a,b]",
    "text": "body",
    "example": "file",
    "split": "spaces",
    "names": "[a,b]",
    "dtype": "int32",
    "column": "ids",
}
DIALECT = ("separator", "quoted", "column_names")
CASES: list[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = [
    *((kind, DIALECT, TABLE, WITHOUT) for kind in ("text", "chat", "labelled")),
    ("text", DIALECT, (), ("txt", "txt.gz")),
    ("text", ("text",), (*TABLE, *WITHOUT), ("txt", "txt.xz")),
    ("text", ("example",), ("txt", "txt.zst"), (*TABLE, *WITHOUT)),
    ("tagged", ("split", "names"), WITHOUT, ("conll", "conllu", "txt", "tsv")),
    ("tokens", ("dtype",), ("bin",), ("npy", "arrow")),
    ("tokens", ("column",), ("arrow",), ("bin", "npy")),
]
"""A choice, keys of it, files that they are for, and files that they aren't for."""


def check(*words: str) -> None:
    cfg = composed(conf_dir(), "train", words)
    del cfg.hydra
    cfg.data.corpus = OmegaConf.to_container(cfg.data.corpus, resolve=True)
    check_used_data(cfg, words)


def refused(key: str, *words: str, why: str = "there is") -> None:
    with pytest.raises(UserError, match=rf"^data\.{key}=.* would change nothing, since {why}"):
        check(*words)


def file(folder: Path, name: str) -> str:
    (folder / name).touch()
    return str(folder / name)


def test_each_rule_has_a_case() -> None:
    kinds = {"Text": "text", "Chats": "chat", "Labelled": "labelled"}
    kinds |= {"TaggedWords": "tagged", "Tokens": "tokens"}
    known = {(kind, key) for kind, keys, *_ in CASES for key in keys}
    for target, name in kinds.items():
        assert {(name, k) for keys, *_ in OF_FILES[target] for k in keys} <= known


@pytest.mark.bad_input
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1][0]}-{case[3][0]}")
def test_files_of_other_kinds(case: Any, tmp_path: Path) -> None:
    kind, keys, for_these, not_for_these = case
    base = BASES[kind]
    for key in keys:
        for ending in for_these:
            check(*base, f"data.path={file(tmp_path, f'a.{ending}')}", f"data.{key}={VALUES[key]}")
        for ending in not_for_these:
            place = file(tmp_path, f"a.{ending}")
            refused(key, *base, f"data.path={place}", f"data.{key}={VALUES[key]}")
        if for_these:  # of one of several files, one that is held out, and where nobody knows
            one, other = (file(tmp_path, f"b.{e}") for e in (not_for_these[0], for_these[0]))
            check(*base, f"data.path={one}", f"data.test_path={other}", f"data.{key}={VALUES[key]}")
            check(*base, f"data.path=[{one},{other}]", f"data.{key}={VALUES[key]}")
        check(*base, f"data.path={tmp_path}/none", f"data.{key}={VALUES[key]}")
        check(*base, "data.path=https://a.b/c.x", f"data.{key}={VALUES[key]}")
        check(*base, f"data.path={file(tmp_path, f'a.{not_for_these[0]}')}", f"data.{key}=null")


@pytest.mark.bad_input
def test_pairs_of_text_files_and_parts_of_a_mix(tmp_path: Path) -> None:
    table, plain, other = (file(tmp_path, name) for name in ("a.csv", "a.en", "a.de"))
    two = ["data=pairs", f"data.source={plain}", f"data.target={other}"]
    refused("separator", *two, "data.separator=tab", why="there is no .csv or .tsv")
    check("data=pairs", f"data.path={table}", "data.source=a", "data.target=b", "data.quoted=true")
    parts = f"a: {{data: text, path: {table}, quoted: true}}"
    mixed = ["task=causal_lm", "data=mix"]
    check(*mixed, f"data.parts={{{parts}}}")
    parts += f", b: {{data: text, path: {plain}, quoted: true}}"
    refused(r"parts\.b\.quoted", *mixed, f"data.parts={{{parts}}}", why="there is no .csv")


@pytest.mark.bad_input
@pytest.mark.parametrize("key", ["split_seed", "split_by", "most_held_out"])
def test_what_is_held_out_by_name_is_not_drawn(key: str) -> None:
    word = f"data.{key}={'position' if key == 'split_by' else 7}"
    base = [*BASES["text"], "data.path=a.txt", word]
    check(*base)
    check(*base, "data.val_path=b.txt")
    refused(key, *base, "data.val_path=b.txt", "data.test_path=c.txt", why="no share")
    refused(key, *base, "data.val_fraction=0", "data.test_path=c.txt", why="no share")


@pytest.mark.bad_input
def test_columns_of_the_hub_that_the_task_does_not_read(tmp_path: Path) -> None:
    tasks = {
        "causal_lm": ("text",),
        "seq2seq": ("source", "target"),
        "sft": ("messages",),
        "token_classification": ("words", "tags"),
        "sequence_classification": ("text", "labels"),
    }
    for task, fields in tasks.items():
        for key, wanted in OF_FIELDS.items():
            words = [f"task={task}", "data=hub", "data.name=a/b", f"data.{key}=x"]
            if {*wanted} & {*fields}:
                check(*words)
            else:
                refused(key, *words, why="the task reads")
    file(tmp_path, "a.parquet")
    base = ["task=causal_lm", "data=hub", f"data.name={tmp_path}"]
    refused("quoted", *base, "data.quoted=true")
    file(tmp_path, "a.csv")
    check(*base, "data.quoted=true")


@pytest.mark.bad_input
def test_a_folder_of_shards_is_not_cached() -> None:
    base = ["data=prepared", "data.cache_gigabytes=3"]
    check(*base, "data.path=s3://a/b")
    refused("cache_gigabytes", *base, "data.path=a", why="a is a folder")


@pytest.mark.bad_input
def test_the_command_says_so_of_new_runs(tmp_path: Path) -> None:
    file(tmp_path, "a.jsonl")
    words = ["train", *BASES["text"], "data.path=a.jsonl", "data.separator=tab"]
    assert_refused(run_here(tmp_path, *words), "data.separator=tab would change nothing")
