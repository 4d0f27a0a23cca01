"""A tokenizer is learned from so many megabytes of text, of a large corpus drawn at random."""

import pytest

from everytoken.tokenizer.learned import train_bpe
from everytoken.tokenizer.sample import Sample

TEXTS = [f"{n:04} ä" for n in range(1000)]  # 7 bytes each


@pytest.mark.parametrize("megabytes", [None, 0.007, 1])
def test_of_a_small_corpus_it_is_all_in_order(megabytes: float | None) -> None:
    sample = Sample(iter(TEXTS), megabytes)
    assert [*sample] == TEXTS
    assert str(sample) == ""


def test_of_a_large_one_it_is_as_much_as_asked_for_from_all_of_it() -> None:
    sample = Sample(iter(TEXTS), 0.0021)
    found = [*sample]
    assert len(found) == 300
    assert found == sorted({*found})
    assert {*found} < {*TEXTS}
    quarters = [sum(n * 250 <= int(t[:4]) < (n + 1) * 250 for t in found) for n in range(4)]
    assert min(quarters) > 50
    assert str(sample) == "0.0021 MB, 300 of 1,000 texts, drawn at random"
    assert [*Sample(iter(TEXTS), 0.0021)] == found


def test_a_tokenizer_says_what_it_is_learned_from() -> None:
    few = train_bpe(TEXTS, 300, sample_megabytes=0.0021)
    assert few.learned_from == "0.0021 MB, 300 of 1,000 texts, drawn at random"
    assert few.engine.to_str() == train_bpe(Sample(TEXTS, 0.0021), 300).engine.to_str()
    assert train_bpe(TEXTS, 300, sample_megabytes=1).learned_from == ""
