"""Several processes tokenize with the result of one, in the order of the corpus."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everytoken.corpora.long_text import LongText
from everytoken.data import corpus as corpora
from everytoken.data import side_by_side as module
from everytoken.data.cache.packed import Packed
from everytoken.data.cache.parts import Parts
from everytoken.data.corpus import Corpus
from everytoken.data.counts import Counter
from everytoken.data.objective import CausalLM, Objective, Seq2Seq
from everytoken.errors import RunError, UserError
from everytoken.tokenizer.learned import train_bpe, train_char
from everytoken.tokenizer.tokenizer import Tokenizer

WORDS = [f"{'word ' * (n % 7)}{n} ä" for n in range(200)]
BPE = train_bpe(WORDS, 300)


class Source:
    def __init__(self, records: list[Any]) -> None:
        self.records = records

    def examples(self, split: str) -> list[Any]:
        return self.records


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "CHUNK_EXAMPLES", 10)
    monkeypatch.setattr(module, "FEW_CHUNKS", 2)


def causal(tokenizer: Tokenizer = BPE) -> CausalLM:
    return CausalLM(tokenizer.special, len(tokenizer), 8, 8, "windows")


def made(
    records: list[dict[str, Any]],
    processes: int,
    split: str = "train",
    objective: Objective | None = None,
    parts: Parts | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    counter = Counter(BPE.special.unk)
    source: Any = Source(records)
    corpus = Corpus(source, [*records[0]], None)
    found = corpus.made(split, BPE, objective or causal(), counter, processes, parts)
    items = [one for some in found for one in (some.items() if isinstance(some, Packed) else some)]
    plain = [
        ([None if p is None else np.array(p).tolist() for p in item[:3]], item.reference, real)
        for item, real in items
    ]
    return plain, counter.finish()


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_items_and_all_counts_are_those_of_one_process(split: str) -> None:
    records: list[dict[str, Any]] = [{"text": text} for text in [*WORDS, *WORDS[::3]]]
    long = "a text that isn't in memory " * 50
    records.insert(57, {"text": LongText(lambda: iter([long[:99], long[99:]]))})
    assert made(records, 3, split) == made(records, 1, split)


def test_pairs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [{"source": text, "target": text[::-1]} for text in WORDS]
    pairs = Seq2Seq(BPE.special, len(BPE), None, 20, "truncate")
    assert made(records, 2, "val", pairs) == made(records, 1, "val", pairs)


class Asked(CausalLM):
    """Notes what it is asked for."""

    def items(self, record: Any) -> list[Any]:
        (FOLDER / f"{os.getpid()}").open("a").write("x")
        return super().items(record)


FOLDER = Path()


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_who_was_killed_goes_on(
    tmp_path: Path, split: str, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the parts that are whole, with the result of who wasn't."""
    monkeypatch.setitem(Asked.items.__globals__, "FOLDER", tmp_path)
    records = [{"text": text} for text in [*WORDS, *WORDS[::3]]]
    asked = Asked(BPE.special, len(BPE), 8, 8, "windows")
    right = made(records, 1, split)
    parts = Parts(tmp_path / "parts")
    assert made(records, processes, split, asked, parts) == right
    files = sorted(parts.folder.iterdir())
    assert len(files) == 27 - 2
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-100])
    files[2].write_bytes(b"")
    for file in tmp_path.glob("[0-9]*"):
        file.unlink()
    again = Parts(tmp_path / "parts")
    assert made(records, processes, split, asked, again) == right
    assert again.found == 27 - 2 - 3
    count = sum(file.stat().st_size for file in tmp_path.glob("[0-9]*"))
    assert count == (2 + 3) * 10  # of the chunks that aren't kept, and those that were lost


def test_all_parts_are_kept_before_the_last_item_has_been_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one that is kept later stays behind when the parts were removed."""
    kept = []

    def slow(self: Parts, number: int, made: Any) -> None:
        time.sleep(0.2)
        kept.append(number)

    monkeypatch.setattr(Parts, "put", slow)
    made([{"text": text} for text in WORDS], 2, parts=Parts(tmp_path / "parts"))
    assert sorted(kept) == list(range(2, 20))


def test_parts_that_can_not_be_kept_are_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    parts = Parts(tmp_path / "file" / "parts")
    records = [{"text": text} for text in WORDS]
    assert made(records, 2, "train", None, parts) == made(records, 1)
    assert not parts.is_usable


def test_the_first_record_that_is_refused_is_named() -> None:
    records = [{"text": text} for text in [*WORDS[:63], "long " * 50, *WORDS]]
    refusing = CausalLM(BPE.special, len(BPE), 40, 40, "refuse")
    with pytest.raises(UserError, match=r"1 of 264 train examples are .* example 63 first"):
        made(records, 2, objective=refusing)


class Failing(CausalLM):
    """Doesn't get far."""

    def items(self, record: Any) -> list[Any]:
        if os.getpid() != PARENT and self.long == "drop":
            os.kill(os.getpid(), signal.SIGKILL)
        if os.getpid() != PARENT:
            raise UserError("mend this")
        return super().items(record)


PARENT = os.getpid()


@pytest.mark.parametrize(
    ("long", "kind", "told"),
    [
        ("windows", UserError, "mend this"),
        ("drop", RunError, "a process that tokenizes was"),
    ],
)
def test_what_goes_wrong_in_one_of_them_is_told(
    long: Any, kind: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Failing.items.__globals__, "PARENT", os.getpid())
    failing = Failing(BPE.special, len(BPE), 100, 100, long)
    with pytest.raises(kind, match=told):
        made([{"text": text} for text in WORDS], 2, objective=failing)


def test_what_is_packed_is_unpacked_as_it_was() -> None:
    characters = train_char(["abc "])
    objective = CausalLM(characters.special, len(characters), 4, 2, "windows")
    items = [
        (item, objective.real_count(item))
        for text in ("abc", "abcabcabc", "")
        for item in objective.items({"text": characters.encode([text])[0]})
    ]
    packed = Packed.of(items)
    assert packed.fields == ("ids", "context_ids")
    assert len(packed) == len(items)
    for (item, real), (mine, mine_real) in zip(packed.items(), items, strict=True):
        assert real == mine_real
        assert item.ids.tolist() == mine.ids.tolist()
        assert (item.context_ids is None) == (mine.context_ids is None)
        assert np.array(item.context_ids).tolist() == np.array(mine.context_ids).tolist()
