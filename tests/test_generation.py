"""Text in, text out: what each task makes of a line."""

import io

import pytest

from everytoken.errors import UserError
from everytoken.generation import answer, chunks
from everytoken.module import TokenModule
from everytoken.objective import CausalLM, MaskedLM, Objective, Seq2Seq
from everytoken.schedule import constant
from everytoken.tokenizer import train_char
from helpers import make_model

TOKENIZER = train_char(["abcdefghijklmnopqr"])  # 18 characters + 5 special tokens = 23


def make_module(shape) -> TokenModule:
    import torch

    return TokenModule(
        model=make_model(shape),
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1),
        scheduler=lambda optimizer, total_steps: constant(optimizer, total_steps, 0.0),
        total_steps=1,
        label_smoothing=0.0,
        z_loss=0.0,
        clip_norm=None,
        special=TOKENIZER.special,
        decode=str,
        max_new_tokens=None,
        more_metrics={},
    ).eval()


def answers(shape, objective: Objective, *lines: str) -> list[str]:
    return answer(list(lines), make_module(shape), objective, TOKENIZER, max_new_tokens=6)


def test_answers_do_not_depend_on_the_lines_that_share_a_batch():
    special, size = TOKENIZER.special, len(TOKENIZER)
    for shape, objective in (
        ("encoder_decoder", Seq2Seq(special, size, 100, "refuse")),
        ("decoder", CausalLM(special, size, 8, 8, "windows")),
        ("encoder", MaskedLM(special, size, 8, 8, "windows", 0.15)),
    ):
        lines = ["abc", "a<mask>cde<mask>", "", "qr"]
        together = answers(shape, objective, *lines)
        assert together == [answers(shape, objective, line)[0] for line in lines]
        assert any(together)


def test_masks_are_filled_and_the_rest_stays():
    objective = MaskedLM(TOKENIZER.special, len(TOKENIZER), 8, 8, "windows", 0.15)
    [filled] = answers("encoder", objective, "ab<mask>de")
    assert filled.startswith("ab")
    assert filled.endswith("de")
    assert "<mask>" not in filled
    assert answers("encoder", objective, "abc") == ["abc"]


def test_lines_come_in_chunks_without_their_ends():
    stream = io.BytesIO("é\n\nb\r\nc".encode())
    assert list(chunks(stream, 2)) == [["é", ""], ["b", "c"]]
    assert list(chunks(io.BytesIO(b""), 2)) == []


def test_bytes_that_are_no_utf8_are_named_by_line():
    with pytest.raises(UserError, match="line 2 of the input is not UTF-8"):
        list(chunks(io.BytesIO(b"fine\n\xff\xfe\n"), 1))
