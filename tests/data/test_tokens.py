"""Ids that are in files already: a run on them is the run on their texts, and nothing is copied."""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import everytoken
from everytoken.corpora.mix import Mix
from everytoken.corpora.text import Text
from everytoken.corpora.tokens import Tokens
from everytoken.data.cache.token_store import TokenStore
from everytoken.data.datamodule import TokenDataModule
from everytoken.data.epoch import BatchBudget
from everytoken.data.masked_lm import MaskedLM
from everytoken.data.micro_batches import Batching
from everytoken.data.objective import CausalLM
from everytoken.data.prefix_lm import PrefixLM
from everytoken.data.report import DataReport
from everytoken.data.span_corruption import SpanCorruption
from everytoken.tokenizer.learned import train_bpe
from support.corpus_files import refused

SPLITS = ("train", "val", "test")
TEXTS = {
    "train": ["a quick brown fox", "jumps", "over it all and goes home to sleep", "äöü 日本"],
    "val": ["the lazy dog sleeps all day long", "so does he"],
    "test": ["over and out", "日"],
}
OBJECTIVES = {
    "causal_lm": CausalLM,
    "masked_lm": partial(MaskedLM, corrupted_fraction=0.3),
    "prefix_lm": PrefixLM,
    "span_corruption": partial(
        SpanCorruption, corrupted_fraction=0.3, mean_span=2.0, sentinels=20, start_id=None
    ),
}
TOKENIZER = train_bpe(iter(TEXTS["train"]), vocabulary_size=290, sentinels=20)
PAD, BOS, EOS = TOKENIZER.special[:3]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def data_of(
    source: Any, task: str = "causal_lm", cache: str | None = "kept", **objective: Any
) -> TokenDataModule:
    settings = {"window_tokens": 20, "stride_tokens": 20, "long": "windows"} | objective
    return TokenDataModule(
        source=source,
        fields=["text"],
        make_objective=partial(OBJECTIVES[task], **settings),
        tokenizer=TOKENIZER,
        batching=Batching(BatchBudget(40, None)),
        cache_dir=Path(cache) if cache else None,
        configs={"source": str(vars(source)), "objective": [task, settings]},
    )


def tokens(
    train: str = "train.bin",
    val: str | None = "val.bin",
    test: str | None = "test.bin",
    **changed: Any,
) -> Tokens:
    settings: dict[str, Any] = {"dtype": "uint16", "end_id": EOS, "column": "input_ids"}
    settings |= {"split_by": "content", "val_fraction": 0.2, "test_fraction": 0.2, "seed": 1}
    return Tokens(train, val, test, **settings | changed)


def texts() -> Text:
    for split, lines in TEXTS.items():
        write_texts(f"{split}.txt", lines)
    return Text("train.txt", "val.txt", "test.txt", "text", "line", "content", 0, 0, 1)


def write_texts(file: str, lines: Iterable[str]) -> None:
    Path(file).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write(before: Sequence[int] = (), after: Sequence[int] = (EOS,), **others: list[int]) -> None:
    """All texts of a split in a row, each between marks; or other ids of a split."""
    for split, lines in TEXTS.items():
        own = [i for ids in TOKENIZER.encode(lines) for i in (*before, *ids, *after)]
        np.array(others.get(split, own), np.uint16).tofile(f"{split}.bin")


def everything(data: TokenDataModule) -> Any:
    """Inputs, targets and references of all examples, and the first steps of training."""
    rows = {}
    for name, split in data.splits.items():
        for i in range(len(split)):
            drawn = [split.example(i, epoch) for epoch in (0, 1)]
            parts = [part for e in drawn for part in (e.input_ids, e.labels, e.source_ids)]
            lists = [None if part is None else part.tolist() for part in parts]
            rows[name, i] = [*lists, split.items[i].reference]
    every = data.counts.items()
    counts = {name: (c.tokens, c.too_long, c.lost, c.target_bytes) for name, c in every}
    return rows, [*islice(data.train_steps(), 9)], counts


@pytest.mark.parametrize(
    ("task", "window", "stride", "long"),
    [
        *(("causal_lm", 20, 20, long) for long in ("windows", "truncate", "drop")),
        *(("causal_lm", 6, stride, "windows") for stride in (1, 4, 6)),
        *(("masked_lm", 5, stride, "windows") for stride in (2, 5)),
        *(("prefix_lm", 6, 6, "windows"), ("span_corruption", 6, 6, "windows")),
        *(("span_corruption", 6, 3, "windows"), ("masked_lm", 7, 7, "truncate")),
    ],
)
def test_a_run_on_ids_is_the_run_on_their_texts(
    task: str, window: int, stride: int, long: str
) -> None:
    cut: dict[str, Any] = {"window_tokens": window, "stride_tokens": stride, "long": long}
    right = everything(data_of(texts(), task, **cut))
    write()
    assert everything(data_of(tokens(), task, cache=None, **cut)) == right
    for _ in ("written", "found"):
        data = data_of(tokens(), task, **cut)
        assert everything(data) == right
        items = data.splits["train"].items
        assert isinstance(items, TokenStore)
        assert not (items.folder / "tokens.bin").exists()


def test_marks_that_a_file_has_are_not_doubled() -> None:
    right = everything(data_of(texts()))
    write(before=[BOS])
    assert everything(data_of(tokens())) == right
    for number, split in enumerate(SPLITS):
        np.save(f"{split}.npy", np.array([[BOS, 130, 131 + number, EOS]]))
    data = data_of(tokens("train.npy", "val.npy", "test.npy", end_id=None))
    assert [item.ids.tolist() for item in data.splits["train"].items] == [[BOS, 130, 131, EOS]]


def test_documents_that_are_not_divided_are_told() -> None:
    write()
    data = data_of(tokens(end_id=None))
    assert data.counts["train"].records == 1
    warnings = DataReport.of(data, computes_on_padding=False).warnings()
    (line,) = [line for line in warnings if "train documents" in line]
    assert line.startswith("3 tokens inside of the train documents are the tokenizer's end")
    assert f"data.end_id={EOS} divides them" in line


@pytest.mark.parametrize("end_id", [EOS, None])
def test_shares_are_held_out(end_id: int | None) -> None:
    documents = [[130 + n, 131, *range(140, 140 + n % 40), EOS] for n in range(150)]
    np.array([i for own in documents for i in own], np.uint16).tofile("all.bin")
    split_by = "content" if end_id else "position"
    data = data_of(tokens("all.bin", None, None, end_id=end_id, split_by=split_by))
    found = [data.counts[split].tokens for split in SPLITS]
    assert sum(data.counts[split].records for split in SPLITS) == (150 if end_id else 3)
    assert sum(found) == sum(map(len, documents)) - (150 if end_id else 1)
    assert np.array(found) / sum(found) == pytest.approx([0.6, 0.2, 0.2], abs=0.09)


def test_what_is_held_out_is_not_trained_on() -> None:
    write(train=[107, EOS, 108, 109, EOS], val=[108, 109, EOS])
    data = data_of(tokens())
    assert [item.ids.tolist() for item in data.splits["train"].items] == [[BOS, 107, EOS]]
    assert data.counts["train"].dropped == {"also in a held-out split": 1}


@pytest.mark.parametrize("other", ["tokens", "text"])
def test_a_mix_of_ids(other: str) -> None:
    write()
    lines = [f"and {number} more" for number in range(40)]
    np.save("b.npy", np.array([i for own in TOKENIZER.encode(lines) for i in (*own, EOS)]))
    write_texts("b.txt", lines)
    shares = (0.2, 0.2, 1)
    second: Any = Text("b.txt", None, None, "text", "line", "content", *shares)
    if other == "tokens":
        second = tokens("b.npy", None, None)
    data = data_of(Mix({"a": tokens(), "b": second}), window_tokens=99, stride_tokens=99)
    items = data.splits["train"].items
    assert isinstance(items, TokenStore) == (other == "tokens")
    assert data.counts["train"].parts == [4, len(items) - 4]
    decoded = {s: [TOKENIZER.decode(i.ids.tolist()) for i in data.splits[s].items] for s in SPLITS}
    assert all(decoded[split][: len(own)] == own for split, own in TEXTS.items())
    assert sorted(t for s, own in decoded.items() for t in own[len(TEXTS[s]) :]) == sorted(lines)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([109, 108, 5000, EOS], "train.bin, token 2 (from 0), is id 5000, and the tokenizer has"),
        ([109, PAD, PAD, EOS], f"token 1 (from 0), is id {PAD}, the tokenizer's padding"),
    ],
)
def test_ids_that_are_of_no_text(ids: list[int], words: str) -> None:
    write(train=ids)
    refused(lambda: data_of(tokens()), words)


@pytest.mark.bad_input
def test_settings_of_no_use() -> None:
    write()
    Path("train.bin.gz").write_bytes(b"")
    refused(lambda: tokens(dtype="float32"), "data.dtype must be one of uint16")
    refused(lambda: tokens(end_id=-1), "data.end_id must be")
    refused(lambda: tokens(split_by="place"), "data.split_by must be one of content, position")
    refused(lambda: tokens("nowhere.bin"), "no file nowhere.bin")
    refused(lambda: tokens("train.bin.gz"), "is compressed: unpack it")
    column_of_lines = ("text", "line", "content", 0, 0, 1)
    refused(lambda: Text("train.bin", None, None, *column_of_lines), "data=tokens reads ids")
    refused(lambda: data_of(tokens(val=None, end_id=None)), "data.split_by=position")
    refused(lambda: data_of(tokens(), long="refuse", window_tokens=3), "longer than")
    files = ["data.path=train.bin", "data.val_path=val.bin", "data.test_path=test.bin"]
    of_others = "holds ids already", "tokenizer=pretrained tokenizer.path=FOLDER"
    refused(lambda: everytoken.build("task=causal_lm", "data=tokens", *files), *of_others)
    parts = "{a: {data: pydoc}, b: {data: tokens, path: train.bin, split_by: position}}"
    mixed = ["data=mix", f"data.parts={parts}", "data.limit_examples=2", "data.cache_dir=null"]
    refused(lambda: everytoken.build("task=causal_lm", *mixed), *of_others)
