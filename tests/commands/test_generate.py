"""Text in, text out: what each task makes of a line."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from everytoken.batch import IGNORE_INDEX
from everytoken.commands.answers import Answerer
from everytoken.commands.generate import generate, longest_trained
from everytoken.data.collate import Example
from everytoken.data.masked_lm import MaskedLM
from everytoken.data.objective import CausalLM, Objective, Seq2Seq
from everytoken.decoding.beam_search import BeamSearch
from everytoken.decoding.generate import Decoding
from everytoken.decoding.sampling import Greedy, Sampling
from everytoken.errors import UserError
from everytoken.model.transformer import Shape
from everytoken.run.directory import Run
from everytoken.tokenizer.learned import train_bpe, train_byte, train_char
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.tokenizer import Tokenizer
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
    prompt = make_answerer("decoder").prompt("a<mask>", 0)
    assert prompt
    assert prompt.input_ids.tolist() == [SPECIAL.bos, *TOKENIZER.encode(["a<mask>"])[0]]


@pytest.mark.parametrize("decoding", DECODINGS)
def test_a_blank_source_has_a_blank_answer(decoding: Decoding):
    answerer = make_answerer("encoder_decoder", decoding)
    lines = ["abc", "", "  ", "qr", "\t", "\u00a0\u3000"]
    answers = [*answerer.answers(lines, 4)]
    assert [bool(answer) for answer in answers] == [True, False, False, True, False, False]
    assert answerer.answered == len(lines)
    assert answers[3] == [*answerer.answers(["abc", "x", "y", "qr"], 4)][3]
    if isinstance(decoding, Greedy):
        assert [*answerer.stream(" ", 1)] == []
    # A text may begin with nothing, and nothing has no masks.
    assert [*make_answerer("decoder", decoding).answers([""], 1)] != [""]
    assert [*make_answerer("encoder").answers([""], 1)] == [""]


def test_a_continuation_is_written_behind_its_line():
    """What is generated has its space, and what is streamed too."""
    engine = tokenizers.Tokenizer(models.WordPiece({"<s>": 0, "[UNK]": 1}, unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece()
    words = ["the", "##re", "bread", "eats", ",", "a", *"bcdefghijklmno"]
    engine.model = models.WordPiece(
        {"<s>": 0, "[UNK]": 1, **{word: 2 + i for i, word in enumerate(words)}}, unk_token="[UNK]"
    )
    tokenizer = Tokenizer(engine, SpecialIds(0, 0, 0, 1, None))
    answerer = make_answerer("decoder")
    answerer.tokenizer = tokenizer

    class Spelling(Greedy):
        def stream(self, continuation, keys, *, end_id, max_new_tokens):
            yield from ({0: tokenizer.engine.token_to_id(word)} for word in words[1:5])

    answerer.module.decoding = Spelling()
    assert [*answerer.answers(["the"], 1)] == ["re bread eats,"]
    assert [*answerer.stream("the", 0)] == ["re", " bread", " eats", ",", ""]


def test_a_space_before_a_mask_is_not_written_twice():
    tokenizer = train_bpe(["the old fish eats"] * 3, 300)
    before, fish, eats = ([*tokenizer.encode([text])[0]] for text in ("the old", " fish", " eats"))
    [space] = tokenizer.encode([" "])[0]
    assert len(fish) == 1
    masked = tokenizer.encode_with_masks("the old <mask> eats")
    place = masked.index(tokenizer.special.mask or 0)
    masked[place] = fish[0]
    assert tokenizer.decode_filled(masked, [place]) == "the old fish eats"
    # Of a tokenizer whose mask takes no space.
    ids = [*before, space, *fish, *eats]
    assert tokenizer.decode_filled(ids, [len(before) + 1]) == "the old fish eats"
    assert tokenizer.decode_filled(ids, []) == "the old  fish eats"


@pytest.mark.bad_input
def test_a_line_longer_than_all_that_was_learned_is_warned_of_once(
    capsys: pytest.CaptureFixture[str],
):
    answerer = make_answerer("decoder")
    answerer.longest = 5
    assert len([*answerer.answers(["abcd", "abcde", "abcdef"], 3)]) == 3
    assert capsys.readouterr().out.count("warning: line 2 has 5 tokens") == 1


@pytest.mark.bad_input
def test_an_objective_that_says_nothing_of_prompts_is_refused():
    class Tags(MaskedLM):
        """Positions get a label in training only."""

        def prompt(self, ids):
            return Example(np.array([*ids, 2]), np.full(len(ids) + 1, IGNORE_INDEX))

    class Silent:
        has_source = False

    answerer = make_answerer("encoder")
    tags = Answerer(answerer.module, Tags(SPECIAL, SIZE, 8, 8, "windows", 0.15), TOKENIZER, 5)
    with pytest.raises(UserError, match=r"an encoder .* prompt"):
        next(tags.answers(["abc"], 1))
    silent: Any = Silent()
    with pytest.raises(UserError, match=r"Silent has no prompt"):
        Answerer(answerer.module, silent, TOKENIZER, 5)


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
    pieces = [piece for piece in answerer.stream("a", 0) if piece]
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


@pytest.mark.bad_input
@pytest.mark.parametrize("text", ["", "{", "[1]", '{"splits": 3}', '{"splits": {}}'])
def test_what_is_known_of_training_may_be_damaged(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
):
    run = Run(tmp_path)
    run.data_file.write_text(text)
    assert longest_trained(run) is None
    assert "can't be read: longer lines" in capsys.readouterr().out
