"""Text in, text out: what each task makes of a line."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from everytoken.commands.generate import Answerer, generate
from everytoken.data.objective import CausalLM, MaskedLM, Objective, Seq2Seq
from everytoken.decoding.beam_search import BeamSearch
from everytoken.decoding.generate import Decoding
from everytoken.decoding.sampling import Greedy, Sampling
from everytoken.errors import UserError
from everytoken.model.transformer import Shape
from everytoken.tokenizer.tokenizer import train_byte, train_char
from everytoken.training.module import TokenModule
from everytoken.training.schedule import constant
from support.helpers import make_model

TOKENIZER = train_char(["abcdefghijklmnopqr"])  # 18 characters + 5 special tokens = 23
SPECIAL, SIZE = TOKENIZER.special, len(TOKENIZER)
TASKS: dict[Shape, Objective] = {
    "encoder_decoder": Seq2Seq(SPECIAL, SIZE, None, 100, "refuse"),
    "decoder": CausalLM(SPECIAL, SIZE, 8, 8, "windows"),
    "encoder": MaskedLM(SPECIAL, SIZE, 8, 8, "windows", 0.15),
}
SAMPLING = Sampling(temperature=1.0, top_k=None, top_p=None, seed=1)
DECODINGS = [Greedy(), SAMPLING, BeamSearch(beams=3, length_penalty=1.0)]
LINES = ["abc", "a<mask>cde<mask>", "", "qr", "abcabcabc", "x<y", "r"]


def make_answerer(shape: Shape, decoding: Decoding = DECODINGS[0], room: int = 6) -> Answerer:
    module = TokenModule(
        model=make_model(shape),
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1),
        scheduler=lambda optimizer, total_steps: constant(optimizer, total_steps, 0.0),
        total_steps=1,
        seed=1,
        label_smoothing=0.0,
        z_loss=0.0,
        clip_norm=None,
        special=SPECIAL,
        decode=str,
        max_new_tokens=None,
        decoding=decoding,
        more_metrics={},
    )
    return Answerer(module.eval(), TASKS[shape], TOKENIZER, room)


@pytest.mark.parametrize("shape", TASKS)
@pytest.mark.parametrize("decoding", DECODINGS)
def test_each_line_has_its_answer_in_its_place_whatever_shares_its_batch(
    shape: Shape, decoding: Decoding
):
    answerer = make_answerer(shape, decoding)
    one_by_one = [*answerer.answers(LINES, 1)]
    assert [*answerer.answers(LINES, 3)] == one_by_one
    assert [*answerer.answers(LINES, 64)] == one_by_one
    assert len(set(one_by_one)) > 2


def test_lines_are_read_as_they_are_needed():
    read = []

    def texts():
        for line in LINES * 20:
            read.append(line)
            yield line

    answers = make_answerer("decoder").answers(texts(), 1)
    next(answers)
    assert read == ["abc"]


def test_all_masks_of_a_line_are_filled_and_the_rest_stays():
    answerer = make_answerer("encoder")
    [filled, same] = answerer.answers(["ab<mask><mask>de<mask>", "abc"], 2)
    assert filled.startswith("ab")
    assert "de" in filled
    assert "<mask>" not in filled
    assert same == "abc"


def test_a_mask_is_plain_text_where_none_is_filled():
    assert make_answerer("decoder").encode("a<mask>") == TOKENIZER.encode(["a<mask>"])[0]


@pytest.mark.parametrize("shape", ["decoder", "encoder_decoder"])
@pytest.mark.parametrize("decoding", DECODINGS[:2])
def test_a_stream_is_the_answer_in_pieces(shape: Shape, decoding: Decoding):
    answerer = make_answerer(shape, decoding, room=9)
    for key, (line, answer) in enumerate(zip(LINES, answerer.answers(LINES, 4), strict=True)):
        pieces = [*answerer.stream(line, key)]
        assert "".join(pieces) == answer
        assert len([*filter(None, pieces)]) == len(answer)


def test_a_stream_shows_no_halves_of_characters():
    tokenizer = train_byte([])
    text = "é👍🏽ü"
    answerer = make_answerer("decoder")
    answerer.tokenizer = tokenizer

    class Spelling(Greedy):
        def stream(self, continuation, keys, *, end_id, max_new_tokens):
            yield from ({0: token} for token in tokenizer.encode([text])[0])

    answerer.module.decoding = Spelling()
    answerer.encode = lambda text: [7]
    pieces = [piece for piece in answerer.stream("", 0) if piece]
    assert pieces == [*text]


@pytest.mark.bad_input
def test_what_is_known_only_as_a_whole_is_not_streamed():
    for answerer in (make_answerer("encoder"), make_answerer("decoder", DECODINGS[2])):
        with pytest.raises(UserError, match="set stream=false"):
            next(answerer.stream("a", 0))


@pytest.mark.parametrize("shape", TASKS)
@pytest.mark.parametrize("decoding", DECODINGS)
def test_logits_that_are_nan_are_an_error_and_no_text(shape: Shape, decoding: Decoding):
    answerer = make_answerer(shape, decoding)
    with torch.no_grad():
        next(answerer.module.head.parameters())[3] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        list(answerer.answers(["ab<mask>"], 1))


def test_answered_lines_are_counted():
    answerer = make_answerer("decoder")
    answers = answerer.answers(LINES, 2)
    next(answers)
    assert answerer.answered == len([next(answers) for _ in LINES[1:]]) + 1


@pytest.fixture
def run_of(monkeypatch, tmp_path: Path):
    """`generate` on a run of this shape, whose files aren't needed."""

    def start(shape: Shape, **settings: Any) -> None:
        from omegaconf import OmegaConf

        from everytoken.commands import generate as generation
        from everytoken.run.directory import Run

        target = {"_target_": "everytoken.data.CausalLM", "window_tokens": 8}
        target |= {"stride_tokens": 8, "long": "windows"}
        if shape == "encoder":
            target |= {"_target_": "everytoken.data.MaskedLM", "corrupted_fraction": 0.15}
        cfg = OmegaConf.create({"task": {"objective": target}})
        monkeypatch.setattr(Run, "open", lambda path: Run(path))
        monkeypatch.setattr(Run, "config", cfg)
        monkeypatch.setattr(generation.Tokenizer, "load", lambda path: TOKENIZER)
        monkeypatch.setattr(
            generation, "load_module", lambda *arguments: make_answerer(shape).module
        )
        plain: dict[str, Any] = {
            "checkpoint": "best",
            "decoding": None,
            "max_new_tokens": 5,
            "batch_size": 2,
        }
        files: dict[str, Any] = {"input": None, "output": None, "stream": None}
        generate(str(tmp_path), **(plain | files | settings))

    return start


def test_files_are_read_and_written(run_of, tmp_path: Path, capsys):
    (tmp_path / "in.txt").write_text("\n".join(LINES))
    run_of("decoder", input=str(tmp_path / "in.txt"), output=str(tmp_path / "out.txt"))
    expected = [*make_answerer("decoder", room=5).answers(LINES, 1)]
    assert (tmp_path / "out.txt").read_text() == "".join(f"{line}\n" for line in expected)
    run_of("decoder", input=str(tmp_path / "in.txt"), stream=True)
    assert capsys.readouterr().out == (tmp_path / "out.txt").read_text()


def test_standard_input_is_answered_on_standard_output(run_of, monkeypatch, capsys):
    stdin = io.TextIOWrapper(io.BytesIO(b"abc\n\nqr\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    run_of("decoder")
    assert capsys.readouterr().out.count("\n") == 3


@pytest.mark.bad_input
def test_a_broken_line_leaves_no_output(run_of, tmp_path: Path):
    (tmp_path / "in.txt").write_bytes(b"ab\n\xff\n")
    with pytest.raises(UserError, match=r"in\.txt, line 2: .* isn't UTF-8"):
        run_of("decoder", input=str(tmp_path / "in.txt"), output=str(tmp_path / "out.txt"))
    assert [file.name for file in tmp_path.iterdir()] == ["in.txt"]


def test_masks_are_filled_in_without_a_decoding(run_of, tmp_path: Path, capsys):
    (tmp_path / "in.txt").write_text("a<mask>")
    run_of("encoder", input=str(tmp_path / "in.txt"))
    assert capsys.readouterr().out.startswith("a")
    with pytest.raises(UserError, match="takes no decoding: leave it out"):
        run_of("encoder", decoding={"_target_": "everytoken.decoding.Greedy"})
