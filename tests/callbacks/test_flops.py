"""FLOPs are those that torch counts for the products that the task needs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from everytoken.batch import Batch
from everytoken.callbacks.flops import batch_flops, measured_peak
from everytoken.data.collate import filler
from everytoken.model.transformer import Shape
from support.helpers import make_batch, make_model
from support.outside import LSTM


def counted(model: torch.nn.Module, batch: Batch) -> int:
    with FlopCounterMode(display=False) as counter:
        model.head(model(batch)).sum().backward()  # pyright: ignore
    return counter.get_total_flops()


@pytest.mark.parametrize("shape", ["decoder", "encoder", "encoder_decoder"])
def test_one_sequence_has_the_flops_that_torch_counts(shape: Shape):
    model = make_model(shape, attention="bucketed")  # for one sequence: plain products, no padding
    batch = make_batch([11], with_source=shape == "encoder_decoder")
    expected = counted(model, batch)
    if shape != "encoder":  # the products hold what is masked, too
        expected -= 6 * 2 * 2 * 16 * (11**2 - 11 * 12 // 2)
    assert float(batch_flops(model, batch)) == expected


def test_several_sequences_have_the_flops_of_each():
    model, both = make_model("decoder"), make_batch([3, 7])
    body = 6 * (float(batch_flops(model, both)) / 6 - 16 * 23 * both.target_count)
    alone = 0.0
    for length in (3, 7):
        batch = make_batch([length])
        alone += float(batch_flops(model, batch)) - 6 * 16 * 23 * batch.target_count
    assert body == pytest.approx(alone)


def test_padding_and_fillers_are_no_work():
    model = make_model("decoder")
    assert float(batch_flops(model, make_batch([3, 9]))) == float(
        batch_flops(model, make_batch([3, 9], pad_to_multiple_of=32))
    )
    assert float(batch_flops(model, filler(0, with_source=False))) == 0


@pytest.mark.parametrize("shape", ["decoder", "encoder"])
def test_what_a_window_hides_is_no_work(shape: Shape):
    narrow, wide = (make_model(shape, window=window) for window in (2, None))
    batch = make_batch([6])
    # Of 6 tokens each sees itself, 2 to the left and, unless causal, 2 to the right.
    seen = 1 + 2 + 3 * 4 if shape == "decoder" else 3 + 4 + 5 + 5 + 4 + 3
    hidden = (21 if shape == "decoder" else 36) - seen
    difference = float(batch_flops(wide, batch) - batch_flops(narrow, batch))
    assert difference == 6 * 2 * 2 * 16 * hidden


def test_of_another_model_linear_layers_count():
    model, batch = LSTM(23, 8), make_batch([3, 5])
    assert float(batch_flops(model, batch)) == 6 * 8 * 23 * batch.target_count


def test_the_peak_is_a_rate_that_products_reach_in_little_time():
    peak = measured_peak(torch.device("cpu"), torch.float32, 0.05)
    assert 1e8 < peak < 1e15
