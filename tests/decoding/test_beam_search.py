"""Beam search: the best answer, by the definition of best that it states."""

import math
from itertools import product, takewhile
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from everytoken.batch import Batch
from everytoken.data.collate import Example, collate
from everytoken.decoding.beam_search import BeamSearch
from everytoken.decoding.generate import generate
from everytoken.decoding.sampling import Greedy
from everytoken.hf.export import network_of
from everytoken.model.transformer import Shape, Transformer
from support.helpers import VOCABULARY, make_batch, make_examples, make_model

few = settings(max_examples=25, deadline=None)
SHAPES: list[Shape] = ["encoder_decoder", "decoder"]
END = 3


class Table(nn.Module):
    """Four tokens, few enough to try all; what comes next depends on the last two and the place."""

    head = nn.Identity()

    def __init__(self, seed: int) -> None:
        super().__init__()
        chance = torch.Generator().manual_seed(seed)
        self.logits = 2 * torch.randn(10, 4, 4, 4, generator=chance, dtype=torch.float64)

    def after(self, ids: list[int]) -> Tensor:
        return self.logits[len(ids), ids[-2] if len(ids) > 1 else 0, ids[-1]]

    def forward(self, batch: Batch) -> Tensor:
        rows = zip(batch.input_ids, batch.is_real, strict=True)
        return torch.stack([self.after(ids[real].tolist()) for ids, real in rows])


def prompts_of(*rows: list[int]) -> Batch:
    return collate([Example(ids := torch.tensor(row).numpy(), ids) for row in rows], 0)


def searched(
    model: nn.Module, prompts: Batch, beams: int, length_penalty: float = 1.0, **limits: Any
) -> list[list[int]]:
    decoding = BeamSearch(beams=beams, length_penalty=length_penalty)
    limits = {"end_id": END, "max_new_tokens": 4} | limits
    head = model.head
    assert isinstance(head, nn.Module)
    return generate(model, head, prompts, decoding, **limits)


def before(ends: list[int], row: list[int]) -> list[int]:
    return [*takewhile(lambda token: token not in ends, row)]


def log_p(model: Table, prompt: list[int], answer: list[int]) -> float:
    ids, total = [*prompt], 0.0
    for token in answer:
        total += float(model.after(ids).log_softmax(-1)[token])
        ids.append(token)
    return total


def every_answer(longest: int) -> list[list[int]]:
    others = [token for token in range(4) if token != END]
    ended = [[*a, END] for n in range(longest) for a in product(others, repeat=n)]
    return ended + [list(answer) for answer in product(others, repeat=longest)]


@few
@given(
    seed=st.integers(0, 999),
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    length_penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    longest=st.integers(1, 4),
)
def test_with_beams_enough_for_everything_the_best_of_all_answers_is_found(
    seed: int, prompt: list[int], length_penalty: float, longest: int
):
    model = Table(seed)
    best = max(
        every_answer(longest),
        key=lambda answer: log_p(model, prompt, answer) / len(answer) ** length_penalty,
    )
    found = searched(model, prompts_of(prompt), 200, length_penalty, max_new_tokens=longest)
    assert found == [[token for token in best if token != END]]


def reference(
    model: Table, prompt: list[int], beams: int, length_penalty: float, longest: int
) -> list[int]:
    """Beam search without tensors, batches, caches or an early end."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    answers: list[tuple[float, list[int]]] = []
    for length in range(1, longest + 1):
        candidates = sorted(
            (
                (total + float(p), [*ids, token])
                for total, ids in live
                for token, p in enumerate(model.after([*prompt, *ids]).log_softmax(-1))
            ),
            reverse=True,
        )
        ended = [c for c in candidates[:beams] if c[1][-1] == END]
        live = [c for c in candidates if c[1][-1] != END][:beams]
        answers += [(total / length**length_penalty, ids[:-1]) for total, ids in ended]
        if len(answers) >= beams and length < longest:
            return max(answers)[1]
    answers += [(total / longest**length_penalty, ids) for total, ids in live]
    return max(answers)[1]


@few
@given(
    seed=st.integers(0, 999),
    rows=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=4),
    beams=st.integers(1, 6),
    length_penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    longest=st.integers(1, 6),
)
def test_a_plain_beam_search_finds_the_same(
    seed: int, rows: list[list[int]], beams: int, length_penalty: float, longest: int
):
    model = Table(seed)
    found = searched(model, prompts_of(*rows), beams, length_penalty, max_new_tokens=longest)
    assert found == [reference(model, row, beams, length_penalty, longest) for row in rows]


def test_more_beams_find_what_greedy_decoding_misses():
    # The likelier first token leads to where all is as unlikely.
    model = Table(0)
    p = torch.tensor([0.05, 0.5, 0.4, 0.05], dtype=torch.float64)
    model.logits[:] = torch.tensor([0.25] * 4, dtype=torch.float64).log()
    model.logits[:, 0, 0] = p.log()
    model.logits[:, 0, 2] = torch.tensor([0.01, 0.01, 0.01, 0.97], dtype=torch.float64).log()
    assert searched(model, prompts_of([0]), 1, 0.0)[0][0] == 1
    assert searched(model, prompts_of([0]), 2, 0.0) == [[2]]


def test_the_end_token_counts_as_length():
    model = Table(0)
    model.logits[:] = torch.tensor([0.25] * 4, dtype=torch.float64).log()
    model.logits[:, 0, 0] = torch.tensor([1e-9, 0.35, 0.15, 0.5], dtype=torch.float64).log()
    model.logits[:, 0, 1] = torch.tensor([1e-9, 1e-9, 1e-9, 1.0], dtype=torch.float64).log()
    assert math.log(0.35) / 2 > math.log(0.5) / 1  # [1, END] and [END]
    assert searched(model, prompts_of([0]), 2, 1.0) == [[1]]
    assert searched(model, prompts_of([0]), 2, 0.0) == [[]]


# Transformers


def exact_model(shape: Shape) -> Transformer:
    return make_model(shape).double()


@pytest.mark.parametrize("shape", SHAPES)
def test_one_beam_chooses_as_greedy_decoding(shape: Shape):
    model = exact_model(shape)
    prompts = make_batch([3, 1, 6, 2], with_source=shape == "encoder_decoder")
    for end_id in range(0, VOCABULARY, 5):
        greedy = generate(model, model.head, prompts, Greedy(), end_id=end_id, max_new_tokens=9)
        for length_penalty in (0.0, 1.0):
            limits = {"end_id": end_id, "max_new_tokens": 9}
            assert searched(model, prompts, 1, length_penalty, **limits) == greedy


@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_is_searched_as_its_rows_one_by_one(shape: Shape, monkeypatch):
    model = exact_model(shape)
    examples = make_examples([3, 1, 6, 2, 4], with_source=shape == "encoder_decoder")
    alone = [searched(model, collate([example], 0), 4, end_id=5)[0] for example in examples]
    assert searched(model, collate(examples, 0), 4, end_id=5) == alone
    monkeypatch.setattr("everytoken.decoding.generate.ROWS", 8)  # two at a time
    assert searched(model, collate(examples, 0), 4, end_id=5) == alone
    assert len({tuple(row) for row in alone}) > 1


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("beams", [2, 5])
def test_transformers_finds_the_same(beams: int, length_penalty: float):
    model = exact_model("decoder")
    prompts = make_batch([3, 1, 6, 2, 4], seed=1, padding_side="left")
    answers = set()
    for end_ids in ([5], [11], [17], [11, 5], [17, 3, 8, 12]):
        model.end_ids = tuple(end_ids)
        ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": end_ids}
        network = network_of(model, transformers, ids, "AutoModelForCausalLM").double()
        out = network.generate(
            prompts.input_ids,
            attention_mask=prompts.is_real.long(),
            num_beams=beams,
            length_penalty=length_penalty,
            early_stopping=True,
            do_sample=False,
            max_new_tokens=7,
        )
        new = out[:, prompts.input_ids.shape[1] :].tolist()
        theirs = [before(end_ids, row) for row in new]
        limits = {"end_id": end_ids[0], "max_new_tokens": 7}
        assert searched(model, prompts, beams, length_penalty, **limits) == theirs
        answers |= {len(row) for row in theirs}
    assert len(answers) > 1  # some end, and some don't
