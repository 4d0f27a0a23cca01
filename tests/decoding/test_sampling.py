"""Greedy decoding and sampling: which token is chosen, and on what that depends."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from everytoken.batch import Batch
from everytoken.data.collate import collate
from everytoken.decoding.generate import Decoding, generate
from everytoken.decoding.sampling import Greedy, Sampling
from everytoken.model.transformer import Shape, Transformer
from support.helpers import VOCABULARY, make_batch, make_examples, make_model

few = settings(max_examples=25, deadline=None)
SHAPES: list[Shape] = ["encoder_decoder", "decoder"]
LENGTHS = [3, 1, 6, 2]


def sampling(
    temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, seed: int = 1
) -> Sampling:
    return Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)


def generated(
    model: nn.Module,
    prompts: Batch,
    decoding: Decoding,
    end_id: int = VOCABULARY,
) -> list[list[int]]:
    head = model.head
    assert isinstance(head, nn.Module)
    return generate(model, head, prompts, decoding, end_id=end_id, max_new_tokens=7)


def exact_model(shape: Shape) -> Transformer:
    return make_model(shape).double()


def all_picks(decoding: Sampling, logits: Tensor, count: int = 20_000) -> Tensor:
    """How often each token is chosen by numbers spread evenly over 0 to 1: (V,), sum 1."""
    draw = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    picks = decoding.pick(logits.double().expand(count, -1), draw)
    return picks.bincount(minlength=len(logits)) / count


logits_of_five = st.lists(st.floats(-4, 4), min_size=5, max_size=5).map(torch.tensor)


@few
@given(logits=logits_of_five, temperature=st.sampled_from([0.3, 1.0, 2.0]))
def test_tokens_are_as_frequent_as_the_softmax_has_them(logits: Tensor, temperature: float):
    expected = (logits.double() / temperature).softmax(-1)
    found = all_picks(sampling(temperature), logits)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-4)


@few
@given(logits=logits_of_five, top_k=st.integers(1, 7))
def test_top_k_keeps_the_k_likeliest_in_their_proportions(logits: Tensor, top_k: int):
    kept = logits.double().topk(min(top_k, 5))
    expected = torch.zeros(5, dtype=torch.float64)
    expected[kept.indices] = kept.values.softmax(-1)
    found = all_picks(sampling(top_k=top_k), logits)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-4)


@few
@given(
    logits=st.permutations([0.0, 0.7, 1.1, 2.0, 3.1]).map(torch.tensor),
    top_p=st.sampled_from([0.01, 0.3, 0.65, 0.9, 0.97, 1.0]),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_top_p_keeps_the_smallest_set_with_that_mass(
    logits: Tensor, top_p: float, temperature: float
):
    p = (logits.double() / temperature).softmax(-1)
    order = p.argsort(descending=True).tolist()
    size = next(n for n in range(1, 6) if float(p[order[:n]].sum()) >= top_p - 1e-9)
    found = all_picks(sampling(temperature, top_p=top_p), logits)
    assert found.nonzero().flatten().tolist() == sorted(order[:size])


def test_top_p_counts_the_mass_of_what_top_k_left():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    # Of two, the first has 4/7: alone less than 0.6. Of all four it would take two as well to
    # reach 0.5, but of two one is enough.
    assert all_picks(sampling(top_k=2, top_p=0.5), logits).count_nonzero() == 1
    assert all_picks(sampling(top_k=2, top_p=0.6), logits).count_nonzero() == 2
    assert all_picks(sampling(top_p=0.5), logits).count_nonzero() == 2


@pytest.mark.parametrize("draw", [0.0, 1.0])
def test_the_ends_of_the_range_draw_tokens_that_are_considered(draw: float):
    logits = torch.tensor([[0.0, 5.0, 1.0, 4.0]])
    found = sampling(top_k=3, top_p=0.9).pick(logits, torch.tensor([draw]))
    assert found.tolist() == [1 if draw == 0.0 else 3]


class Coin(nn.Module):
    """Two tokens, 0 a little likelier, whatever came before."""

    head = nn.Identity()

    def forward(self, batch: Batch) -> Tensor:
        return torch.tensor([0.6, 0.4]).log().expand(batch.target_count, 2)


def test_sampled_rows_and_steps_are_independent_throws():
    prompts = make_batch([1] * 3000)
    rows = np.array(generated(Coin(), prompts, sampling()))
    assert rows.shape == (3000, 7)
    # Standard error of a share: below 0.009 for a column, 0.0034 for all.
    assert abs(rows.mean() - 0.4) < 0.015
    assert np.abs(rows.mean(axis=0) - 0.4).max() < 0.04
    assert np.abs(np.corrcoef(rows.T) - np.eye(7)).max() < 0.08
    assert np.abs(np.corrcoef(rows[:-1].ravel(), rows[1:].ravel())[0, 1]) < 0.04


# The whole of it, on Transformers


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_is_sampled_by_its_key_whatever_its_neighbours(shape: Shape):
    model = exact_model(shape)
    examples = make_examples(LENGTHS, with_source=shape == "encoder_decoder")
    keys = [10, 7, 12, 0]
    batch = collate(examples, 0, indices=keys)
    together = generated(model, batch, sampling(), 5)
    alone = [
        generated(model, collate([example], 0, indices=[key]), sampling(), 5)[0]
        for example, key in zip(examples, keys, strict=True)
    ]
    assert together == alone
    assert together == generated(model, batch, sampling(), 5)
    assert together != generated(model, batch, sampling(seed=2), 5)
    assert together != generated(model, collate(examples, 0, indices=[1, 2, 3, 4]), sampling(), 5)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_choice_is_greedy(shape: Shape):
    model = exact_model(shape)
    prompts = make_batch(LENGTHS, with_source=shape == "encoder_decoder")
    greedy = generated(model, prompts, Greedy())
    assert generated(model, prompts, sampling(top_k=1)) == greedy
    assert generated(model, prompts, sampling(top_p=1e-6)) == greedy
    assert generated(model, prompts, sampling(temperature=1e-4)) == greedy
    assert generated(model, prompts, sampling()) != greedy
