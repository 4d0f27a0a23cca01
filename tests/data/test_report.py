"""What is told of the data before training."""

import io
import json
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tokenizers import normalizers

from everytoken.data.datamodule import Batching, TokenDataModule
from everytoken.data.epoch import BatchBudget
from everytoken.data.objective import CausalLM, Long, Seq2Seq
from everytoken.data.report import DataReport, bars
from everytoken.tokenizer.learned import train_char
from everytoken.tokenizer.tokenizer import Tokenizer


class Words:
    """Words of each split, and the same backwards."""

    fields: tuple[str, ...] = ("source", "target", "text")

    def __init__(self, **words: str) -> None:
        self.words = words

    def examples(self, split: str) -> list[dict[str, str]]:
        words = self.words[split].split(",")
        return [{"source": word, "target": word[::-1], "text": word} for word in words]


def make_data(
    train: str,
    val: str = "a",
    long: Long = "windows",
    window: int = 8,
    pairs: bool = False,
    microbatch_tokens: int = 170,
    train_tokenizer: Callable[[Iterable[str]], Tokenizer] = train_char,
) -> TokenDataModule:
    causal = partial(CausalLM, window_tokens=window, stride_tokens=window, long=long)
    return TokenDataModule(
        source=Words(train=train, val=val),
        fields=("source", "target") if pairs else ("text",),
        limit_examples=None,
        make_objective=partial(Seq2Seq, start_id=None, max_tokens=50, long="refuse")
        if pairs
        else causal,
        train_tokenizer=train_tokenizer,
        tokenizer=None,
        splits=("train", "val"),
        batching=Batching(BatchBudget(tokens=None, examples=4), microbatch_tokens, "right", 1),
        num_workers=0,
        seed=0,
        epochs=None,
    )


def report(data: TokenDataModule, computes_on_padding: bool = False) -> DataReport:
    return DataReport.of(data, computes_on_padding)


def shown(found: DataReport, width: int = 80) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False, markup=False, soft_wrap=True)
    console.print(found)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_report_is_short_and_fits_into_a_terminal() -> None:
    words = ",".join("abcdefg"[: 1 + i % 7] for i in range(70))
    lines = shown(report(make_data(words, val="xyz,a,b")))
    assert lines == [
        "data  ┃ examples ┃ real tokens ┃ unknown ┃ repeated ┃ too long",
        "━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━",
        "train │       70 │         350 │       0 │       63 │        0",
        "val   │        3 │           8 │  60.00% │        0 │        0",
        "lengths of train ▕ ███████▏ 1% 2, 50% 5, 99% 8, longest 8",
        f"fill 1.00; random batches, padded, would have {lines[5][-4:]}",
    ]


@pytest.mark.parametrize(
    ("long", "cell", "told"),
    [
        ("windows", "2 of 3 in windows", None),
        ("truncate", "2 truncated", "long=truncate leaves tokens out: 12.0% of train, 0.0% of val"),
        ("drop", "2 dropped", "long=drop leaves tokens out: 76.0% of train, 0.0% of val"),
    ],
)
def test_what_became_of_long_texts_is_told(long: Long, cell: str, told: str | None) -> None:
    lines = shown(report(make_data("abcdef,abcdefghi,abcdefghij", long=long)))
    assert lines[2].endswith(cell)
    assert sum("leaves tokens out" in line for line in lines) == (told is not None)
    assert told is None or told in lines[-1]


def test_what_the_source_left_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = {"train": {"blank on one side": 1_200, "too dull": 3}}
    monkeypatch.setattr(Words, "dropped", dropped, raising=False)
    at = {"train": {"blank on one side": "lines 3, 8, …"}}
    monkeypatch.setattr(Words, "dropped_at", at, raising=False)
    found = report(make_data("ab,c", val="a,b"))
    told = "left out of train: 1,200 blank on one side (lines 3, 8, …), 3 too dull"
    assert shown(found)[-1] == told
    assert found.as_json()["splits"]["train"]["counts"]["dropped"] == dropped["train"]


@pytest.mark.parametrize(
    ("train", "warnings"),
    [
        ("a", ["the train split is one single text"]),
        ("ab,ab,ab", ["all 3 train texts are the same"]),
        ("a,b,c,c,c", ["40% of the train texts repeat an earlier one: each counts again"]),
        ("a,b,c,d,e,f,g,h,i,i", []),
    ],
)
def test_what_is_odd_is_told(train: str, warnings: list[str]) -> None:
    assert report(make_data(train, val=train[0] + "," + train[0] * 2)).warnings() == warnings


@pytest.mark.parametrize(("train", "examples", "tokens"), [("abc", 1, 4), ("ab,ab,ab", 3, 9)])
def test_one_single_example_and_all_the_same_are_trained_on(
    train: str, examples: int, tokens: int
) -> None:
    for step in islice(make_data(train).train_dataloader(), 3):
        assert sum(len(batch.input_ids) for batch in step) == examples
        assert sum(batch.target_count for batch in step) == tokens


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.booleans())
def test_fill_is_that_of_the_first_epoch(lengths: list[int], pairs: bool) -> None:
    data = make_data(",".join("a" * n for n in lengths), pairs=pairs, window=40)
    steps = list(islice(data.train_dataloader(), -(-len(lengths) // 4)))
    batches = [batch for step in steps for batch in step]
    fill = sum(b.real_count for b in batches) / sum(b.padded_count for b in batches)
    assert report(data).fill == 1.0
    found = report(data, computes_on_padding=True)
    assert found.fill == pytest.approx(fill)
    if all(len(step) == 1 for step in steps):  # nothing was sorted
        assert found.padded_fill == pytest.approx(fill)


def test_fill_of_random_batches_is_not_that_of_sorted_ones() -> None:
    data = make_data("a,bcdefghij,c,defghijkl", window=40, microbatch_tokens=20)
    found = report(data, computes_on_padding=True)
    assert found.fill == 1.0
    assert found.padded_fill == 24 / 40


def test_tokens_that_only_a_config_names_are_told() -> None:
    def with_more(texts: Iterable[str]) -> Tokenizer:
        known = train_char(texts)
        return Tokenizer(known.engine, known.special, ["<|begin|>", "<|end|>"])

    line = DataReport.of(make_data("ab,cd,ba", train_tokenizer=with_more), False).warnings()[-1]
    assert line.startswith("<|begin|>, <|end|> are new tokens: tokenizer_config.json names them")


def test_a_report_is_plain_json() -> None:
    found = report(make_data("abc,ab,abc", val="ab,é"))
    kept = json.loads(json.dumps(found.as_json()))
    assert kept["splits"]["train"]["examples"] == 3
    assert kept["splits"]["train"]["counts"]["duplicates"] == 1
    assert kept["splits"]["val"]["counts"]["unknown"] == 1
    assert sum(kept["splits"]["train"]["histogram"]) == 3
    assert kept["warnings"] == found.warnings()


@pytest.mark.parametrize(
    ("histogram", "drawn"), [([0, 1, 8], " ▁█"), ([3], "█"), ([1, 1000], "▁█"), ([4, 8], "▄█")]
)
def test_bars(histogram: list[int], drawn: str) -> None:
    assert bars(histogram) == drawn


def lower(texts: Iterable[str]) -> Tokenizer:
    tokenizer = train_char(text.lower() for text in texts)
    tokenizer.engine.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace("!", "")]
    )
    return tokenizer


def test_texts_that_do_not_come_back_as_they_are_are_named() -> None:
    found = report(make_data("ab,Ab,ba,bAa", val="a,b", train_tokenizer=lower))
    (line,) = found.warnings()
    assert "differs for 50% of the train texts, e.g. 'Ab' comes back as 'ab'" in line
    assert found.splits["train"].counts.changed == 0.5
    assert found.splits["val"].counts.changed == 0


def test_of_pairs_it_is_the_answers_that_have_to_come_back() -> None:
    found = report(make_data("ab,Ab,ba,bAa", val="a,b", pairs=True, train_tokenizer=lower))
    assert found.splits["train"].counts.changed_example == ["bA", "ba"]


def test_texts_without_a_token_are_counted_unless_they_are_blank() -> None:
    found = report(make_data("ab,!,!!,b,c,d,e,f", val="a,!", train_tokenizer=lower))
    assert [split.counts.wordless for split in found.splits.values()] == [2, 1]
    assert any("2 of 8 train examples have a text for which" in w for w in found.warnings())
