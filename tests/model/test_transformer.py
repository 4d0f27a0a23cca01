"""The Transformer: blind to padding, sealed between sequences, causal, and at work on real tokens.

In float64, so that what is equal differs by rounding only.
"""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from everytoken.batch import IGNORE_INDEX, Batch, PaddingSide
from everytoken.data.collate import collate, filler
from everytoken.errors import UserError
from everytoken.model.attention import rotate
from everytoken.model.backends import Backend
from everytoken.model.block import Block
from everytoken.model.layers import RMSNorm
from everytoken.model.transformer import Shape, Transformer
from everytoken.training.loss import masked_cross_entropy, target_sums
from support.helpers import VOCABULARY, make_batch, make_examples, make_model

SHAPES: list[Shape] = ["encoder_decoder", "decoder", "encoder"]
LENGTHS = [5, 1, 8, 3]
NO = IGNORE_INDEX

few = settings(max_examples=25, deadline=None)
each_shape = pytest.mark.parametrize("shape", SHAPES)


def exact_model(shape: Shape, **options: Any) -> Transformer:
    return make_model(shape, **options).double()


def has_source(shape: Shape) -> bool:
    return shape == "encoder_decoder"


def gradients(model: Transformer, *batches: Batch) -> dict[str, Tensor]:
    """Gradient of the loss, summed over batches, with respect to each parameter."""
    model.zero_grad()
    for batch in batches:
        logits = model.head(model(batch))
        masked_cross_entropy(logits, batch.targets, reduction="sum").backward()
    return gradients_left_in(model)


def gradients_left_in(model: Transformer) -> dict[str, Tensor]:
    found = {}
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        found[name] = weight.grad.clone()
    return found


def assert_same(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10
) -> None:
    """No gradient differs by more than this share of the norm of all gradients together."""
    assert found.keys() == expected.keys()
    scale = torch.cat([value.flatten() for value in expected.values()]).norm()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= tolerance * scale, name


def assert_same_outputs(model: Transformer, found: Batch, expected: Batch) -> None:
    assert torch.equal(found.targets, expected.targets)
    torch.testing.assert_close(model(found), model(expected), rtol=1e-11, atol=1e-12)
    assert_same(gradients(model, found), gradients(model, expected))


# Padding


@few
@given(
    shape=st.sampled_from(SHAPES),
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    side=st.sampled_from(["left", "right"]),
    multiple=st.sampled_from([1, 3, 16]),
    pad_id=st.integers(0, VOCABULARY - 1),
    seed=st.integers(0, 99),
)
def test_padding_changes_neither_outputs_nor_gradients(
    shape: Shape,
    lengths: list[int],
    side: PaddingSide,
    multiple: int,
    pad_id: int,
    seed: int,
) -> None:
    plain = make_batch(lengths, with_source=has_source(shape), seed=seed)
    padded = make_batch(
        lengths,
        with_source=has_source(shape),
        seed=seed,
        pad_id=pad_id,
        padding_side=side,
        pad_to_multiple_of=multiple,
    )
    assert_same_outputs(exact_model(shape), padded, plain)


@each_shape
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_stands_in_the_padding_changes_nothing_at_all(shape: Shape, side: PaddingSide) -> None:
    model = make_model(shape)
    clean = make_batch(
        LENGTHS, with_source=has_source(shape), padding_side=side, pad_to_multiple_of=7
    )
    noise = torch.randint(VOCABULARY, clean.input_ids.shape)
    dirty = replace(clean, input_ids=clean.input_ids.where(clean.is_real, noise))
    assert not torch.equal(dirty.input_ids, clean.input_ids)
    if clean.source_ids is not None:
        ids, is_real = clean.first_side
        noise = torch.randint(VOCABULARY, ids.shape)
        dirty = replace(dirty, source_ids=ids.where(is_real, noise))
        assert not torch.equal(dirty.first_side[0], ids)
    assert torch.equal(model(dirty), model(clean))
    dirty_gradients = gradients(model, dirty)
    for name, gradient in gradients(model, clean).items():
        assert torch.equal(dirty_gradients[name], gradient), name


@each_shape
def test_in_float32_padding_changes_rounding_only(shape: Shape) -> None:
    model = make_model(shape)
    plain = make_batch(LENGTHS, with_source=has_source(shape))
    padded = make_batch(
        LENGTHS, with_source=has_source(shape), padding_side="left", pad_to_multiple_of=32
    )
    torch.testing.assert_close(model(padded), model(plain), rtol=1e-5, atol=1e-5)
    assert_same(gradients(model, padded), gradients(model, plain), tolerance=1e-5)


# A batch in which every real token has an id of its own: the gradient of an output with respect
# to the embedding then tells which tokens the output depends on.

IDS = [[1, 2, 3, 4], [5, 6, 7]]
SOURCE_IDS = [[8, 9, 10, 11, 12], [13, 14]]


def telltale_batch(shape: Shape) -> Batch:
    return Batch.make(
        input_ids=torch.tensor([[1, 2, 3, 4, 0], [5, 6, 7, 0, 0]]),
        labels=torch.tensor([[1, 1, 1, 1, NO], [1, 1, 1, NO, NO]]),
        lengths=torch.tensor([4, 3]),
        source_ids=(
            torch.tensor([[8, 9, 10, 11, 12], [13, 14, 0, 0, 0]]) if has_source(shape) else None
        ),
        source_lengths=torch.tensor([5, 2]) if has_source(shape) else None,
    )


def influences(shape: Shape, prefixes: list[int] | None = None) -> list[set[int]]:
    """For each output, in order, the ids of all tokens that it depends on."""
    model, batch = exact_model(shape), telltale_batch(shape)
    if prefixes is not None:
        batch = replace(batch, prefix_lengths=torch.tensor(prefixes))
    hidden = model(batch)
    torch.manual_seed(1)
    probes = (hidden * torch.randn_like(hidden)).sum(1)
    found = []
    for probe in probes:
        (gradient,) = torch.autograd.grad(probe, model.embedding.weight, retain_graph=True)
        found.append(set(gradient.abs().sum(1).nonzero().flatten().tolist()))
    return found


@each_shape
def test_no_sequence_sees_another_or_the_padding(shape: Shape) -> None:
    found = influences(shape)
    for i, own in enumerate([set(IDS[0])] * 4 + [set(IDS[1])] * 3):
        source = set(SOURCE_IDS[0 if i < 4 else 1])
        assert found[i] <= own | source


def test_a_decoder_sees_itself_and_all_earlier_tokens_and_no_later_one() -> None:
    assert influences("decoder") == [set(row[: t + 1]) for row in IDS for t in range(len(row))]


@pytest.mark.parametrize("prefixes", [[3, 2], [0, 3], [1, 1]])
def test_a_prefix_sees_itself_both_ways_and_nothing_of_what_follows(prefixes: list[int]) -> None:
    assert influences("decoder", prefixes) == [
        set(row[: max(t + 1, prefix if t < prefix else 0)])
        for row, prefix in zip(IDS, prefixes, strict=True)
        for t in range(len(row))
    ]


def test_an_encoder_sees_its_whole_sequence() -> None:
    assert influences("encoder") == [set(row) for row in IDS for _ in row]


def test_an_encoder_decoder_sees_its_whole_source_and_no_later_target() -> None:
    assert influences("encoder_decoder") == [
        {*source, *row[: t + 1]}
        for row, source in zip(IDS, SOURCE_IDS, strict=True)
        for t in range(len(row))
    ]


@each_shape
def test_a_batch_is_the_same_as_its_sequences_one_by_one(shape: Shape) -> None:
    model = exact_model(shape)
    examples = make_examples(LENGTHS, with_source=has_source(shape))
    batch = collate(examples, 0)
    alone = [collate([example], 0) for example in examples]
    torch.testing.assert_close(
        model(batch), torch.cat([model(b) for b in alone]), rtol=1e-11, atol=1e-12
    )


@few
@given(shape=st.sampled_from(SHAPES), cuts=st.sets(st.integers(1, 5)), seed=st.integers(0, 99))
def test_any_split_into_micro_batches_gives_the_same_gradient(
    shape: Shape, cuts: set[int], seed: int
) -> None:
    model = exact_model(shape)
    examples = make_examples([4, 1, 7, 2, 2, 5], with_source=has_source(shape), seed=seed)
    ends = [*sorted(cuts), 6]
    parts = [
        collate(examples[start:end], 0) for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    assert_same(gradients(model, *parts), gradients(model, collate(examples, 0)))


# Outputs


@each_shape
@pytest.mark.parametrize("side", ["left", "right"])
def test_outputs_are_in_the_order_of_the_targets(shape: Shape, side: PaddingSide) -> None:
    model = exact_model(shape)
    batch = make_batch(LENGTHS, with_source=has_source(shape), padding_side=side)
    hidden = model(batch)
    places = batch.is_target.nonzero().tolist()
    assert hidden.shape == (batch.target_count, 16)
    assert 1 < len(places) < batch.input_count
    for i, (row, column) in enumerate(places):
        labels = torch.full_like(batch.labels, NO)
        labels[row, column] = batch.labels[row, column]
        only = replace(batch, labels=labels, target_count=1)
        assert only.targets.tolist() == [batch.targets[i]]
        torch.testing.assert_close(model(only), hidden[i : i + 1], rtol=1e-11, atol=1e-12)


@each_shape
def test_outputs_do_not_depend_on_the_labels(shape: Shape) -> None:
    model = exact_model(shape)
    batch = make_batch(LENGTHS, with_source=has_source(shape))
    other = replace(batch, labels=batch.labels.where(~batch.is_target, 3))
    assert not torch.equal(other.targets, batch.targets)
    assert torch.equal(model(other), model(batch))


def test_a_decoder_computes_the_equations_of_llama() -> None:
    model, width = exact_model("decoder"), 16
    assert model.decoder is not None
    ids = torch.tensor([7, 3, 3, 20, 1])
    turn = model.decoder.rotary(torch.arange(5))
    may_attend = torch.ones(5, 5, dtype=torch.bool).tril()
    x = model.embedding.weight[ids]
    for block in model.decoder.blocks:
        assert isinstance(block, Block)
        normed = F.rms_norm(x, (width,), block.attention_norm.weight, 1e-6)
        query = rotate((normed @ block.attention.query.weight.T).view(5, 4, 4), turn)
        key, value = (normed @ block.attention.key_value.weight.T).chunk(2, dim=-1)
        key = rotate(key.reshape(5, 2, 4), turn).repeat_interleave(2, dim=1)
        value = value.reshape(5, 2, 4).repeat_interleave(2, dim=1)
        scores = torch.einsum("thw,shw->hts", query, key) / 2  # the root of head width 4
        chances = scores.masked_fill(~may_attend, -torch.inf).softmax(-1)
        mixed = torch.einsum("hts,shw->thw", chances, value).flatten(1)
        x = x + mixed @ block.attention.output.weight.T
        normed = F.rms_norm(x, (width,), block.ffn_norm.weight, 1e-6)
        gate, up = (normed @ block.ffn.gate_up.weight.T).chunk(2, dim=-1)
        x = x + (F.silu(gate) * up) @ block.ffn.down.weight.T
    expected = F.rms_norm(x, (width,), model.decoder.norm.weight, 1e-6)
    batch = Batch.make(
        input_ids=ids[None], labels=torch.zeros_like(ids)[None], lengths=torch.tensor([5])
    )
    torch.testing.assert_close(model(batch), expected, rtol=1e-10, atol=1e-11)


# Work


@each_shape
@pytest.mark.parametrize("side", ["left", "right"])
def test_no_layer_computes_on_padding(shape: Shape, side: PaddingSide) -> None:
    model = make_model(shape)
    batch = make_batch(
        LENGTHS, with_source=has_source(shape), padding_side=side, pad_to_multiple_of=16
    )
    rows: dict[str, int] = {}

    def watch(name: str, module: nn.Module) -> None:
        def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            # The embedding of an encoder-decoder is called twice, for sources and for inputs.
            rows[name] = rows.get(name, 0) + args[0].numel() // (
                1 if name == "embedding" else args[0].shape[-1]
            )

        module.register_forward_pre_hook(note)

    kinds = (nn.Linear, RMSNorm, nn.Embedding)
    watched = {name: m for name, m in model.named_modules() if isinstance(m, kinds)}
    for name, module in watched.items():
        watch(name, module)
    model(batch)

    assert batch.input_count == sum(LENGTHS)
    assert batch.source_count != batch.input_count
    expected = dict.fromkeys(watched, batch.input_count)
    del expected["head"]  # logits are made by the loss, and of target tokens only
    if has_source(shape):
        for name in expected:
            if name.startswith("encoder.") or name.endswith("cross.key_value"):
                expected[name] = batch.source_count
        expected["embedding"] += batch.source_count
    assert rows == expected
    assert model.computes_on_padding is False


# Nothing to learn from


@each_shape
def test_a_filler_gives_every_weight_a_gradient_of_exactly_zero(shape: Shape) -> None:
    model = make_model(shape)
    batch = filler(0, with_source=has_source(shape))
    hidden = model(batch)
    assert hidden.shape == (0, 16)
    sums = target_sums(hidden, model.head, batch.targets, label_smoothing=0.1)
    assert (sums.loss.item(), sums.correct.item()) == (0, 0)
    sums.loss.backward()
    for name, gradient in gradients_left_in(model).items():
        assert torch.equal(gradient, torch.zeros_like(gradient)), name


@each_shape
def test_a_filler_adds_nothing_to_the_gradient_of_a_batch(shape: Shape) -> None:
    model = make_model(shape)
    batch = make_batch(LENGTHS, with_source=has_source(shape))
    nothing = filler(3, with_source=has_source(shape))
    alone, together = gradients(model, batch), gradients(model, nothing, batch, nothing)
    for name, gradient in alone.items():
        assert gradient.any(), name
        assert torch.equal(gradient, together[name]), name


@each_shape
def test_a_sequence_without_targets_or_without_tokens_makes_nothing_undefined(
    shape: Shape,
) -> None:
    model = exact_model(shape)
    examples = make_examples([4, 3, 2], with_source=has_source(shape))
    kept = collate(examples, 0)
    empty = Batch.make(
        input_ids=F.pad(kept.input_ids, (0, 0, 0, 1)),
        labels=F.pad(kept.labels, (0, 0, 0, 1), value=NO),
        lengths=F.pad(kept.lengths, (0, 1)),
        source_ids=None if kept.source_ids is None else F.pad(kept.source_ids, (0, 0, 0, 1)),
        source_lengths=(
            None if kept.source_lengths is None else F.pad(kept.source_lengths, (0, 1))
        ),
    )
    assert_same_outputs(model, empty, kept)


@each_shape
@pytest.mark.parametrize("attention", ["bucketed", "padded"])
def test_new_lengths_are_soon_compiled_no_more(shape: Shape, attention: Backend) -> None:
    def graphs() -> int:
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]

    torch._dynamo.reset()
    model = make_model(shape, attention=attention)
    names = list(model.state_dict())
    model.compile(dynamic=True, backend="eager")  # compiled by name only: guards are what matters
    compiled = []
    for seed in range(20):
        chance = np.random.default_rng(seed)
        lengths = chance.integers(2, 30, chance.integers(2, 9)).tolist()
        batch = make_batch(lengths, with_source=has_source(shape), seed=seed)
        target_sums(model(batch), model.head, batch.targets).loss.backward()
        compiled.append(graphs())
    assert compiled[0] > 0
    # Two sizes that happen to be equal in the first batch are taken to be always equal.
    assert len(set(compiled)) <= 1 + 3
    assert len(set(compiled[5:])) == 1
    assert list(model.state_dict()) == names


# How the model is made


@each_shape
@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_heads_are_full_heads_that_share_keys_and_values(shape: Shape, groups: int) -> None:
    grouped, full = (
        exact_model(shape, key_value_heads=groups),
        exact_model(shape, key_value_heads=4),
    )
    weights = grouped.state_dict()
    for name, weight in weights.items():
        if name.endswith("key_value.weight"):
            assert weight.shape == (2 * groups * 4, 16)
            heads = weight.view(2, groups, 4, 16).repeat_interleave(4 // groups, dim=1)
            weights[name] = heads.reshape(2 * 16, 16)
    full.load_state_dict(weights)
    batch = make_batch(LENGTHS, with_source=has_source(shape))
    torch.testing.assert_close(grouped(batch), full(batch), rtol=1e-11, atol=1e-12)


def make(**changed: Any) -> Transformer:
    sizes: dict[str, Any] = {
        "shape": "decoder",
        "vocabulary": 50,
        "layers": 2,
        "width": 16,
        "heads": 4,
        "key_value_heads": 2,
        "ffn_width": 24,
        "dropout": 0.0,
        "token_dropout": 0.0,
        "tie_embeddings": False,
        "rope_base": 100.0,
        "norm_eps": 1e-6,
        "window": None,
        "attention": "auto",
    }
    return Transformer(**{**sizes, **changed})


def test_tied_embeddings_are_one_weight() -> None:
    tied, untied = make(tie_embeddings=True), make()
    assert tied.head.weight is tied.embedding.weight
    assert untied.head.weight is not untied.embedding.weight
    assert isinstance(untied.head, nn.Linear)
    assert not torch.equal(untied.head.weight, untied.embedding.weight)
    counts = [sum(p.numel() for p in model.parameters()) for model in (tied, untied)]
    assert counts[1] - counts[0] == 50 * 16


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_the_head_makes_logits_over_the_vocabulary(tie_embeddings: bool) -> None:
    model = make(tie_embeddings=tie_embeddings)
    hidden = torch.randn(3, 16)
    assert isinstance(model.head, nn.Linear)
    assert model.head(hidden).shape == (3, 50)
    torch.testing.assert_close(model.head(hidden), hidden @ model.head.weight.T)


@each_shape
def test_each_shape_has_the_stacks_that_its_name_says(shape: Shape) -> None:
    model = make(shape=shape)
    assert (model.encoder is not None) is ("encoder" in shape)
    assert (model.decoder is not None) is ("decoder" in shape)
    for stack in (model.encoder, model.decoder):
        if stack is not None:
            assert len(stack.blocks) == 2


@each_shape
def test_layers_that_write_to_the_stream_start_smaller_with_depth(shape: Shape) -> None:
    torch.manual_seed(0)
    model = make(shape=shape, layers=8, width=64, ffn_width=64)
    weights = dict(model.named_parameters())
    writers = [n for n in weights if n.endswith(("output.weight", "down.weight"))]
    assert len(writers) >= 16
    for name in writers:
        reader = name.replace("output", "query").replace("down", "gate_up")
        ratio = float(weights[reader].detach().std() / weights[name].detach().std())
        assert ratio == pytest.approx(4, rel=0.1), name  # 8 layers write 2 x 8 times


@each_shape
@pytest.mark.parametrize("kind", ["dropout", "token_dropout"])
def test_dropout_acts_in_training_only(shape: Shape, kind: str) -> None:
    torch.manual_seed(0)
    model = make(shape=shape, **{kind: 0.5})
    batch = make_batch(LENGTHS, with_source=has_source(shape))
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))
    without = make(shape=shape)
    without.load_state_dict(model.state_dict())
    assert torch.equal(without(batch), model(batch))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"width": 18}, "model.width=18 must be a multiple of 2 x model.heads=4"),
        ({"width": 12}, "model.width=12 must be a multiple of 2 x model.heads=4"),
        ({"heads": 3, "key_value_heads": 3}, "model.width=16 .* model.heads=3"),
        ({"key_value_heads": 3}, "model.heads=4 must be a multiple of model.key_value_heads=3"),
        ({"key_value_heads": 8}, "model.heads=4 must be a multiple of model.key_value_heads=8"),
    ],
)
def test_sizes_that_do_not_divide_are_named(changed: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**changed)


def test_an_encoder_decoder_without_sources_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"an encoder-decoder needs source_ids .* task=seq2seq"):
        make_model("encoder_decoder")(make_batch(LENGTHS))


@pytest.mark.parametrize("shape", ["decoder", "encoder"])
def test_other_shapes_do_not_read_sources(shape: Shape) -> None:
    model = exact_model(shape)
    batch = make_batch(LENGTHS, with_source=True)
    assert torch.equal(model(batch), model(replace(batch, source_ids=None, source_lengths=None)))


def test_checkpointed_activations_give_the_same_gradients_to_the_bit():
    batch = make_batch([9, 4, 7], with_source=True)
    for shape, every in product(SHAPES, (True, 2)):
        for precision in (None, torch.bfloat16):
            found = [
                _gradients_with_dropout(shape, checkpointed, batch, precision)
                for checkpointed in (False, every)
            ]
            kept, plain_bytes = found[0]
            again, fewer_bytes = found[1]
            assert fewer_bytes < 0.8 * plain_bytes, (shape, every)
            for name, gradient in kept.items():
                assert torch.equal(gradient, again[name]), (shape, every, name)


def _gradients_with_dropout(
    shape: Shape, checkpointed: bool | int, batch: Batch, precision: torch.dtype | None
) -> tuple[dict[str, Tensor], int]:
    """Of a model with dropout, and the bytes that are kept for backward."""
    model = make_model(shape, checkpoint_activations=checkpointed, dropout=0.3, layers=4)
    torch.manual_seed(5)
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autocast("cpu", precision, enabled=precision is not None):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = model(batch)
        noise = torch.rand(())  # what comes after draws as it would have
        logits = model.head(hidden)
    loss = masked_cross_entropy(logits.float(), batch.targets, reduction="sum") * noise
    loss.backward()
    return gradients_left_in(model), sum(saved.values())


@pytest.mark.bad_input
@pytest.mark.parametrize("every", [0, 3, -1, None, "all", 1.5])
def test_a_wrong_number_of_blocks_to_checkpoint_is_refused(every: Any):
    with pytest.raises(UserError, match=r"true, false or a number from 1 to model\.layers=2"):
        make_model("decoder", checkpoint_activations=every)
