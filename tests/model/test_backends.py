"""Each way to attend against a naive loop over sequences, heads and tokens."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.testing import assert_close

from everytoken.errors import UserError
from everytoken.model import backends as attend
from everytoken.model.backends import Backend, attention, select_backend
from everytoken.model.cpu import bucketed
from everytoken.model.unpad import unpad
from everytoken.model.visibility import Visibility
from support.helpers import borders_of, naive_attention, random_tokens

few = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
HERE = ("bucketed", "padded")
"""The ways that run on any machine."""
WAYS = (*HERE, "varlen")
Lengths = list[int]
QKV = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(params=["as it is", "small"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of `bucketed`, and others that short sequences exceed."""
    if request.param == "small":
        monkeypatch.setattr(bucketed, "WASTE", 4)
        monkeypatch.setattr(bucketed, "BLOCK", 2)
        monkeypatch.setattr(bucketed, "LONG", 5)


@pytest.fixture(autouse=True)
def varlen_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch documents of its kernel, which needs a GPU: only our arguments are tested."""

    def documented(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        window_size: tuple[int, int],
    ) -> Tensor:
        assert query.shape[1] == key.shape[1] == value.shape[1]
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        queries, keys = cu_seq_q.diff().tolist(), cu_seq_k.diff().tolist()
        assert max(queries) <= max_q
        assert max(keys) <= max_k
        left, right = window_size
        assert right in (0, left)
        visibility = Visibility(right == 0, None if left == -1 else left)
        return naive_attention(query, key, value, queries, keys, visibility)

    monkeypatch.setattr(attend, "varlen_attn", documented)


def attend_by(
    way: Backend,
    qkv: QKV,
    queries: Lengths,
    keys: Lengths,
    visibility: Visibility,
    more: int = 0,
    prefixes: Lengths | None = None,
) -> Tensor:
    borders = borders_of(queries, more)
    if prefixes is not None:
        borders = replace(borders, prefix_lengths=torch.tensor(prefixes))
    seen = borders if queries is keys else borders_of(keys, more)
    return getattr(attend, way)(borders, seen, visibility)(*qkv)


def tokens(queries: Lengths, keys: Lengths, key_heads: int, seed: int = 0) -> QKV:
    """Queries of 4 heads, keys and values, with gradients."""
    return (
        random_tokens(sum(queries), 4, 6, seed).requires_grad_(),
        random_tokens(sum(keys), key_heads, 6, seed + 1).requires_grad_(),
        random_tokens(sum(keys), key_heads, 6, seed + 2).requires_grad_(),
    )


def assert_same_with_gradients(out: Tensor, expected: Tensor, inputs: Sequence[Tensor]) -> None:
    assert_close(out, expected, rtol=1e-10, atol=1e-12)
    weight = torch.randn_like(out)
    found, right = (torch.autograd.grad((o * weight).sum(), inputs) for o in (out, expected))
    assert_close(found, right, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("way", WAYS)
def test_equal_keys_share_the_attention_evenly(way: Backend) -> None:
    # Two sequences of 2 tokens and 1 token; all keys are alike, so each sees the plain average.
    query, key = torch.ones(3, 1, 2), torch.ones(3, 1, 2)
    value = torch.tensor([[[2.0, 0.0]], [[4.0, 8.0]], [[100.0, 100.0]]])
    lengths = [2, 1]
    both = attend_by(way, (query, key, value), lengths, lengths, Visibility(False, None))
    assert_close(both[:, 0], torch.tensor([[3.0, 4.0], [3.0, 4.0], [100.0, 100.0]]))
    causal = attend_by(way, (query, key, value), lengths, lengths, Visibility(True, None))
    assert_close(causal[:, 0], torch.tensor([[2.0, 0.0], [3.0, 4.0], [100.0, 100.0]]))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("sizes")
@few
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    more=st.integers(0, 3),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 4),
    key_heads=st.sampled_from([1, 2, 4]),
    prefixes=st.none() | st.lists(st.integers(0, 9), min_size=5, max_size=5),
    seed=st.integers(0, 99),
)
def test_self_attention_is_that_of_a_loop_over_sequences(
    way: Backend,
    lengths: Lengths,
    more: int,
    causal: bool,
    window: int | None,
    key_heads: int,
    prefixes: Lengths | None,
    seed: int,
) -> None:
    inputs, visibility = tokens(lengths, lengths, key_heads, seed), Visibility(causal, window)
    if prefixes is not None:
        prefixes = [min(pair) for pair in zip(prefixes, lengths, strict=False)]
    expected = naive_attention(*inputs, lengths, lengths, visibility, prefixes)
    found = attend_by(way, inputs, lengths, lengths, visibility, more, prefixes)
    assert_same_with_gradients(found, expected, inputs)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("sizes")
@few
@given(
    lengths=st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=5),
    more=st.integers(0, 3),
    key_heads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_cross_attention_is_that_of_a_loop_over_sequences(
    way: Backend, lengths: list[tuple[int, int]], more: int, key_heads: int, seed: int
) -> None:
    queries, keys = [q for q, _ in lengths], [k for _, k in lengths]
    inputs, visibility = tokens(queries, keys, key_heads, seed), Visibility(False, None)
    expected = naive_attention(*inputs, queries, keys, visibility)
    found = attend_by(way, inputs, queries, keys, visibility, more)
    assert_same_with_gradients(found, expected, inputs)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize("prefixes", [None, [900, 650, 2], [1100, 3, 0]])
def test_long_sequences_are_attended_to_like_short_ones(
    causal: bool, window: int | None, prefixes: Lengths | None
) -> None:
    # 1100 goes to the fused kernel (unless a window keeps it small), 700 is cut into blocks.
    lengths, visibility = [1100, 700, 3], Visibility(causal, window)
    inputs = tokens(lengths, lengths, 2)
    out, expected = (
        attend_by(way, inputs, lengths, lengths, visibility, prefixes=prefixes) for way in HERE
    )
    assert_same_with_gradients(out, expected, inputs)


@pytest.mark.parametrize("way", HERE)
@pytest.mark.parametrize("causal", [True, False])
def test_no_gradient_crosses_the_border_of_a_sequence(way: Backend, causal: bool) -> None:
    lengths = [3, 2, 4]
    inputs = tokens(lengths, lengths, 2)
    out = attend_by(way, inputs, lengths, lengths, Visibility(causal, None), more=2)
    (out[3:5] * random_tokens(2, 4, 6, 9)).sum().backward()  # the second sequence
    for part in inputs:
        assert part.grad is not None
        touched = part.grad.abs().sum((1, 2)) > 0
        # (A first causal token has no choice, so its query may have no gradient.)
        assert touched.tolist() == [False] * 3 + [bool(touched[3]), True] + [False] * 4


@pytest.mark.parametrize("way", HERE)
@pytest.mark.parametrize("window", [None, 2])
def test_no_later_token_reaches_an_earlier_one_if_causal(way: Backend, window: int | None) -> None:
    lengths = [4, 4]
    for t in range(4):
        inputs = tokens(lengths, lengths, 4)
        out = attend_by(way, inputs, lengths, lengths, Visibility(True, window))
        (out[4 + t] * random_tokens(1, 4, 6, 9)[0]).sum().backward()
        assert inputs[2].grad is not None
        touched = inputs[2].grad.abs().sum((1, 2)) > 0
        first = 0 if window is None else t - window
        assert touched.tolist() == [False] * 4 + [first <= p <= t for p in range(4)]


@pytest.mark.parametrize("way", HERE)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [([3, 0, 2], [3, 0, 2]), ([0, 0], [0, 0])])
def test_a_sequence_without_tokens_makes_nothing_undefined(
    way: Backend, causal: bool, queries: Lengths, keys: Lengths
) -> None:
    inputs, visibility = tokens(queries, keys, 2), Visibility(causal, None)
    out = attend_by(way, inputs, queries, queries, visibility, more=1)
    expected = naive_attention(*inputs, queries, keys, visibility)
    assert_close(out, expected, rtol=1e-10, atol=1e-12)
    if sum(queries):
        out.sum().backward()
        for part in inputs:
            assert part.grad is not None
            assert part.grad.isfinite().all()


@pytest.mark.parametrize("way", HERE)
def test_what_looks_at_an_empty_sequence_gets_a_finite_answer(way: Backend) -> None:
    queries, keys = [2, 3], [0, 4]
    inputs = tokens(queries, keys, 4)
    out = attend_by(way, inputs, queries, keys, Visibility(False, None))
    expected = naive_attention(
        inputs[0][2:], inputs[1], inputs[2], [3], [4], Visibility(False, None)
    )
    assert_close(out[2:], expected, rtol=1e-10, atol=1e-12)
    out.sum().backward()
    for part in inputs:
        assert out.isfinite().all()
        assert part.grad is not None
        assert part.grad.isfinite().all()


@pytest.mark.parametrize("way", HERE)
def test_what_nobody_looks_at_leaves_no_trace(way: Backend) -> None:
    queries, keys = [2, 0, 3], [1, 2, 4]
    inputs = tokens(queries, keys, 2)
    out = attend_by(way, inputs, queries, keys, Visibility(False, None))
    expected = naive_attention(*inputs, queries, keys, Visibility(False, None))
    assert_same_with_gradients(out, expected, inputs)


@pytest.mark.parametrize("way", HERE)
@pytest.mark.parametrize("causal", [True, False])
def test_half_precision_is_that_of_its_rounding(way: Backend, causal: bool) -> None:
    lengths, visibility = [30, 7, 12], Visibility(causal, None)
    exact = tokens(lengths, lengths, 2)
    query, key, value = (x.detach().bfloat16().requires_grad_() for x in exact)
    half = query, key, value
    out = attend_by(way, half, lengths, lengths, visibility)
    expected = naive_attention(*exact, lengths, lengths, visibility)
    assert out.dtype == torch.bfloat16
    weight = torch.randn_like(expected)
    found = torch.autograd.grad((out * weight).sum(), half)
    right = torch.autograd.grad((expected * weight).sum(), exact)
    for a, b in zip((out, *found), (expected, *right), strict=True):
        assert (a - b).norm() / b.norm() < 4 * 2**-8


def test_autocast_leaves_the_products_as_they_are() -> None:
    lengths, visibility = [5, 3], Visibility(True, None)
    query, key, value = (x.detach().float() for x in tokens(lengths, lengths, 2))
    inputs = query, key, value
    plain = attend_by("bucketed", inputs, lengths, lengths, visibility)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attend_by("bucketed", inputs, lengths, lengths, visibility), plain)


# grouped


def test_sequences_of_like_length_share_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucketed, "WASTE", 10)
    lengths = torch.tensor([9, 2, 3, 9, 8, 2])
    rows = [g.rows for g in bucketed._groups(lengths, lengths, Visibility(True, None))]
    # 8 joins the nines' group: 3 x 81 - 2 x 81 - 64 = 17 entries of padding would be too many.
    assert rows == [[0, 3], [4], [2, 1, 5]]


@given(
    pairs=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=60),
    waste=st.sampled_from([0, 50, 4096]),
)
@few
def test_each_sequence_is_in_one_group_and_little_is_wasted(
    monkeypatch: pytest.MonkeyPatch, pairs: list[tuple[int, int]], waste: int
) -> None:
    monkeypatch.setattr(bucketed, "WASTE", waste)
    queries, keys = (torch.tensor(side) for side in zip(*pairs, strict=True))
    groups = bucketed._groups(queries, keys, Visibility(False, None))
    members = sorted(i for g in groups for i in g.rows)
    assert members == [i for i, (q, _) in enumerate(pairs) if q]
    for g in groups:
        spent = len(g.rows) * g.width * g.key_width
        assert spent - sum(pairs[i][0] * pairs[i][1] for i in g.rows) <= waste


def test_a_causal_block_multiplies_no_keys_that_come_later() -> None:
    lengths = torch.tensor([600])
    (group,) = bucketed._groups(lengths, lengths, Visibility(True, None))
    assert [block.keys.stop for block in group.blocks] == [256, 512, 600]
    (group,) = bucketed._groups(lengths, lengths, Visibility(True, 100))
    assert [block.keys.start for block in group.blocks] == [0, 156, 412]


@given(
    count=st.integers(1, 6),
    padding=st.integers(0, 2),
    left_out=st.booleans(),
    seed=st.integers(0, 99),
)
@few
def test_take_has_the_gradient_of_indexing(
    count: int, padding: int, left_out: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.randperm(count, generator=generator)[: count - left_out]
    index = torch.cat((kept, torch.full((padding,), count)))
    inverse = torch.full((count + 1,), len(index))
    inverse[index] = torch.arange(len(index))
    slots = bucketed.Slots(index, inverse[:-1], padding > 0, left_out)
    rows = random_tokens(count, 1, 3, seed)[:, 0].requires_grad_()
    out = bucketed.take(rows, slots)
    assert_same_with_gradients(out, torch.cat((rows[kept], torch.zeros(padding, 3))), [rows])
    returned = bucketed.take(out, slots.back())
    is_kept = torch.isin(torch.arange(count), kept)[:, None]
    assert_same_with_gradients(returned, rows * is_kept, [rows])


# What is chosen


@pytest.mark.parametrize(
    ("device", "dtype", "way"),
    [
        ("cpu", torch.float32, "bucketed"),
        ("cpu", torch.bfloat16, "bucketed"),
        ("cuda", torch.bfloat16, "varlen"),
        ("cuda", torch.float16, "varlen"),
        ("cuda", torch.float32, "padded"),
        ("meta", torch.bfloat16, "padded"),
    ],
)
def test_the_fastest_way_is_chosen(device: str, dtype: torch.dtype, way: str) -> None:
    assert select_backend("auto", torch.device(device), dtype) == way


def test_what_was_asked_for_is_chosen() -> None:
    assert select_backend("padded", torch.device("cpu"), torch.float32) == "padded"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("way", "device", "dtype"),
    [
        ("varlen", "cpu", torch.bfloat16),
        ("varlen", "cuda", torch.float32),
        ("bucketed", "cuda", torch.bfloat16),
    ],
)
def test_a_way_that_a_device_does_not_have_is_refused(
    way: Backend, device: str, dtype: torch.dtype
) -> None:
    with pytest.raises(UserError, match=f"model.attention={way}"):
        select_backend(way, torch.device(device), dtype)


@pytest.mark.parametrize("way", HERE)
def test_a_forced_way_is_used(way: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    borders, asked = borders_of([2, 1]), []
    for name in WAYS:
        monkeypatch.setattr(attend, name, lambda *_, name=name: asked.append(name))
    attention(way, borders, borders, Visibility(True, None), torch.float32)
    assert asked == [way]


def test_the_kernel_for_gpus_needs_no_answer_from_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attend, "varlen_attn", varlen_attn)  # the real one
    with torch.device("meta"):
        ids, lengths = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
        borders = replace(unpad(ids, lengths, 5, "right")[1], prefix_lengths=lengths)
        inputs = [torch.zeros(5, h, 8, dtype=torch.bfloat16, requires_grad=True) for h in (4, 2, 2)]
        out = attend.varlen(borders, borders, Visibility(True, None))(*inputs)
        out.sum().backward()
    assert out.shape == (5, 4, 8)
    assert all(x.grad is not None and x.grad.shape == x.shape for x in inputs)
