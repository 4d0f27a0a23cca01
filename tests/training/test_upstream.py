"""What is used of the insides of sacrebleu and torch is there, and does its work."""

import pytest
import torch
from sacrebleu.metrics.chrf import CHRF

from everytoken.training.sacrebleu_internals import ngram_counts, score_of
from everytoken.training.torch_internals import TorchDispatchMode, written_arguments
from support.upstream import changed

PREDICTIONS = ["a cat sat", "", "the dog ran away"]
REFERENCES = ["a cat sat down", "hm", "a dog ran"]


@pytest.mark.parametrize("word_order", [0, 2])
def test_counts_of_chrf_add_up_to_its_score(word_order: int) -> None:
    chrf = CHRF(word_order=word_order)
    found = changed("sacrebleu", "CHRF._extract_corpus_statistics", "training/sacrebleu_internals")
    rows = ngram_counts(chrf, PREDICTIONS, REFERENCES)
    assert [len(row) for row in rows] == [3 * (6 + word_order)] * 3, found
    assert rows[0][:3] == [7, 11, 7], found  # characters without spaces
    summed = [sum(column) for column in zip(*rows, strict=True)]
    expected = chrf.corpus_score(PREDICTIONS, [REFERENCES]).score
    found = changed("sacrebleu", "CHRF._compute_score_from_stats", "training/sacrebleu_internals")
    assert score_of(chrf, summed) == expected, found


def test_torch_tells_which_arguments_an_operation_writes_to() -> None:
    seen: dict[str, list[int]] = {}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen[func.name()] = written_arguments(func)
            return func(*args, **(kwargs or {}))

    with Watch():
        torch.empty(2).normal_().add(1)
    found = changed("torch", "OpOverload._schema", "training/torch_internals")
    assert seen["aten::normal_"] == [0], found
    assert seen["aten::add.Tensor"] == [], found
