"""What evaluation reports is what others compute from the run's files and the corpus's own."""

import errno
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as Engine

from everytoken.batch import IGNORE_INDEX, Batch, select
from everytoken.commands import build
from everytoken.commands import evaluate as commands
from everytoken.commands.evaluate import evaluate
from everytoken.config.literal import plain
from everytoken.data.collate import Example
from everytoken.data.item import Item
from everytoken.data.objective import ExampleKey, Record
from everytoken.errors import UserError
from everytoken.runtime.console import console
from everytoken.tokenizer.learned import train_bpe, train_byte, train_char
from everytoken.tokenizer.pretrained import from_pretrained
from everytoken.tokenizer.special import SpecialIds
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.evaluation import EvaluationModule
from support.finished_runs import config, make_run
from support.helpers import assert_refused, run_here
from support.others_tokenizers import bert, gpt2, llama, t5, words

SMALL = ["logger=none", "model.layers=1", "model.width=32", "model.ffn_width=48"]

TARGETS = [
    "The quick Brown fox",
    "the quick brown fox",
    "Über straße",
    "",
    "hello world, hello there",
    "don't ☃ world",
    "the  quick  fox runs and runs and runs over the hello world again and again, over and over",
    "fox",
    "",
    "´",
    "Hello World",
    "年月日",
    "",
]
"""Three blank lines, the last at the end; letters that tokenizers change or don't know."""

SOURCES = [text and f"{i} {text.lower()}" for i, text in enumerate(TARGETS)]


def endings() -> Engine:
    """BPE whose words end in </w>, and which has no decoder: texts come back without spaces."""
    vocabulary = {name: i for i, name in enumerate(["<unk>", "<s>", "</s>", "<pad>"])}
    letters = sorted({letter for text in TARGETS for letter in text if letter != " "})
    for letter in letters:
        vocabulary[letter] = len(vocabulary)
        vocabulary[f"{letter}</w>"] = len(vocabulary)
    engine = Engine(models.BPE(vocabulary, [], unk_token="<unk>", end_of_word_suffix="</w>"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    engine.add_special_tokens(["<unk>", "<s>", "</s>", "<pad>"])
    return engine


LEARNED: dict[str, Callable[[Sequence[str]], Tokenizer]] = {
    "char": train_char,
    "byte": train_byte,
    "bpe": partial(train_bpe, vocabulary_size=280),
    "unknown": lambda texts: train_char(["abcdefgh "]),
}
OTHERS = {"bert": bert, "gpt2": gpt2, "t5": t5, "llama": llama, "words": words, "</w>": endings}


def tokenizer_of(kind: str, folder: Path) -> Tokenizer:
    if kind in LEARNED:
        return LEARNED[kind]([*TARGETS, *SOURCES])
    engine = OTHERS[kind]()
    if kind == "llama":
        engine.add_special_tokens([AddedToken("<pad>", special=True)])
    engine.save(str(folder / "tokenizer.json"))
    return from_pretrained([], path=str(folder), **dict.fromkeys(SpecialIds._fields))


class Answers:
    """In the place of a model: right answers, wrong ones, empty ones and one without an end."""

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer) -> None:
        self.rows = tokenizer.encode([*texts])
        self.limits: set[int] = set()
        self.prompts: dict[int, list[int]] = {}

    def __call__(self, module: EvaluationModule, prompts: Batch, limit: int) -> list[list[int]]:
        assert prompts.indices is not None
        self.limits.add(limit)
        indices = prompts.indices.tolist()
        asked = select(prompts.input_ids, prompts.is_real)
        self.prompts |= dict(zip(indices, asked, strict=True))
        return [self.answer(index)[:limit] for index in indices]

    def answer(self, index: int) -> list[int]:
        row = self.rows[index]
        kinds = [row, row, row[: len(row) // 2], [*row[1:], *row[:1]], [], row, 50 * row]
        return kinds[index % len(kinds)]


def evaluated(
    run: Path, monkeypatch: pytest.MonkeyPatch, answers: Answers, **options: Any
) -> tuple[dict[str, float], list[str]]:
    """The files of an evaluation: its metrics, and the lines of what was generated."""
    monkeypatch.setattr(EvaluationModule, "generate", lambda *parts: answers(*parts))
    trainer = plain(config("trainer=cpu").trainer)
    evaluate(str(run), "test", "best", trainer, None, None, **options)
    found = json.loads((run / "eval-test-best.json").read_text())
    texts = run / "eval-test-best.txt"
    lines = texts.read_text(encoding="utf-8").split("\n") if texts.exists() else [""]
    assert lines.pop() == ""
    return {name.removeprefix("test/"): value for name, value in found.items()}, lines


def write(folder: Path, **columns: Sequence[str]) -> None:
    for name, texts in columns.items():
        (folder / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


@pytest.fixture
def pairs(tmp_path: Path) -> list[str]:
    write(tmp_path, src=["a", "b"], tgt=["a", "b"], te_src=SOURCES, te_tgt=TARGETS)
    files = {"source": "src", "target": "tgt", "test_source": "te_src", "test_target": "te_tgt"}
    names = [f"data.{key}={tmp_path / name}" for key, name in files.items()]
    return [*SMALL, "data=pairs", *names, "metrics=translation", "data.cache_dir=null"]


@pytest.mark.parametrize("kind", [*LEARNED, *OTHERS])
def test_texts_are_compared_as_others_compare_the_files(
    kind: str, pairs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of(kind, tmp_path)
    run, _, tokenizer = make_run(tmp_path / "run", pairs, tokenizer)
    answers = Answers([text for text in TARGETS if text], tokenizer)
    found, lines = evaluated(run.path, monkeypatch, answers)
    assert len(lines) == len(TARGETS)  # one for each line of the file, in their order
    assert found["bleu"] == pytest.approx(BLEU(force=True).corpus_score(lines, [TARGETS]).score)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(lines, [TARGETS]).score)
    equal = [line == target for line, target in zip(lines, TARGETS, strict=True) if target]
    assert found["exact_match"] == pytest.approx(sum(equal) / len(equal))
    # As far as the longest reference, and no further.
    assert answers.limits == {max(map(len, answers.rows)) + 1}


LONG = ("windows", "windows, overlapping", "truncate", "drop")


@pytest.mark.parametrize(
    ("kind", "long"),
    [
        *((kind, "windows, overlapping") for kind in (*LEARNED, *OTHERS)),
        *(("bert", long) for long in LONG if "," not in long),
        ("llama", "truncate"),
    ],
)
def test_bits_are_divided_by_the_bytes_of_the_corpus(
    kind: str,
    long: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer, window = tokenizer_of(kind, tmp_path), 12
    write(tmp_path, **{"text.txt": ["a", "b"], "test.txt": TARGETS})
    files = [f"data.path={tmp_path / 'text.txt'}", f"data.test_path={tmp_path / 'test.txt'}"]
    cut = [f"task.objective.window_tokens={window}", f"task.objective.long={long.split(',')[0]}"]
    cut += ["task.objective.stride_tokens=5"] if "," in long else []
    more = ["task=causal_lm", "data=text", "data.cache_dir=null"]
    run, _, tokenizer = make_run(tmp_path / "run", [*SMALL, *more, *files, *cut], tokenizer)
    found, _ = evaluated(run.path, monkeypatch, Answers([], tokenizer))
    texts = [text for text in TARGETS if text]
    told = f"measures test, {len(texts)} examples: all of {tmp_path / 'test.txt'}"
    assert told in capsys.readouterr().out.replace("\n", "")
    rows = tokenizer.encode(texts)
    if long == "drop":
        texts = [text for text, row in zip(texts, rows, strict=True) if len(row) < window]
        rows = [row for row in rows if len(row) < window]
    if long == "truncate":
        for i in range(len(texts)):
            if len(rows[i]) >= window:
                spans = tokenizer.engine.encode(texts[i], add_special_tokens=False).offsets
                texts[i], rows[i] = texts[i][: spans[window - 1][1]], rows[i][: window - 1]
    tokens = sum(len(row) + 1 for row in rows)
    size = found["loss"] * tokens / math.log(2) / found["bits_per_byte"]
    assert size == pytest.approx(sum(len(text.encode()) for text in texts))


class Asked:
    """A decoder's task in a fork: "question=answer", of which the answer, or all, is learned."""

    has_source = False
    long = "refuse"
    limit = "nothing"

    def __init__(self, special: SpecialIds, vocabulary: int, learns_all: bool) -> None:
        self.special = special
        self.learns_all = learns_all

    def is_too_long(self, record: Record) -> bool:
        return False

    def items(self, record: Record) -> list[Item]:
        begin = [self.special.bos, *record["source"], self.special.unk]
        ids = np.array([*begin, *record["target"], self.special.eos], np.int32)
        return [Item(ids, context_ids=np.array([len(begin)], np.int32))]

    def real_count(self, item: Item) -> int:
        return len(item.ids) - 1

    def example(self, item: Item, key: ExampleKey) -> Example:
        assert item.context_ids is not None
        labels = item.ids[1:].copy()
        if not self.learns_all:
            labels[: item.context_ids[0] - 1] = IGNORE_INDEX
        return Example(item.ids[:-1], labels)

    def prompt(self, ids: list[int]) -> Example:
        inputs = np.array([self.special.bos, *ids, self.special.unk])
        return Example(inputs, np.full(len(inputs), IGNORE_INDEX))


@pytest.mark.parametrize("learns_all", [False, True])
def test_a_decoder_with_a_prompt_answers_it(
    learns_all: bool, pairs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = train_char([*TARGETS, *SOURCES])
    monkeypatch.setattr(build, "factory", with_objective(partial(Asked, learns_all=learns_all)))
    task = ["task=causal_lm", "task.fields=[source,target]", "task.max_new_tokens=auto"]
    run, _, tokenizer = make_run(tmp_path / "run", [*pairs, *task], tokenizer)
    texts = [text for text in TARGETS if text]
    answers = Answers(texts, tokenizer)
    found, lines = evaluated(run.path, monkeypatch, answers)
    equal = [line == target for line, target in zip(lines, TARGETS, strict=True) if target]
    assert found["exact_match"] == pytest.approx(sum(equal) / len(equal))
    assert any(equal)
    assert answers.limits == {max(map(len, answers.rows)) + 1}
    asked = tokenizer.encode([source for source in SOURCES if source])
    special = tokenizer.special
    assert answers.prompts == {i: [special.bos, *row, special.unk] for i, row in enumerate(asked)}
    own = sum(len(text.encode()) for text in texts)
    own += sum(len(text.encode()) for text in SOURCES) if learns_all else 0
    rows = [*answers.rows, *([[0] * (len(row) + 1) for row in asked] if learns_all else [])]
    tokens = sum(len(row) for row in rows) + len(texts)
    size = found["loss"] * tokens / math.log(2) / found["bits_per_byte"]
    assert size == pytest.approx(own)


def with_objective(make: Callable[..., Asked]) -> Callable[..., Any]:
    ours = build.factory
    return lambda cfg, key: make if key == "task.objective" else ours(cfg, key)


def test_evaluation_of_another_file_has_results_of_its_own(
    pairs: list[str], tmp_path: Path
) -> None:
    tokenizer = train_char([*TARGETS, *SOURCES])
    overrides = [*pairs, "task.max_new_tokens=3"]
    run, *_ = make_run(tmp_path / "run", overrides, tokenizer)
    run.note_resumption([], overrides)  # as training records what it was started with
    write(tmp_path, other=["fox", "", "hello"], answers=["FOX", "", "HELLO"])
    standard = run_here(tmp_path, "eval", "run=run", "trainer=cpu", "max_new_tokens=auto")
    assert standard.returncode == 0, standard.stderr
    before = (run.path / "eval-test-best.json").read_text()
    words = ("data.test_source=other", "data.test_target=answers")
    done = run_here(tmp_path, "eval", "run=run", "trainer=cpu", *words)
    assert done.returncode == 0, done.stderr
    assert "max_new_tokens=3 cuts off" in done.stdout
    assert "longest test target has 6 tokens" in done.stdout
    assert (run.path / "eval-test-best.json").read_text() == before
    (file,) = run.path.glob("eval-test-best-other+answers-*.json")
    assert json.loads(file.read_text())["data"] == list(words)
    lines = file.with_suffix(".txt").read_text().split("\n")
    assert len(lines) == 4
    assert not lines[1]
    assert max(map(len, lines)) == 3
    for wrong, why in (("data.tset_source=a", "unknown key data.tset_source"), ("data=text", "")):
        done = run_here(tmp_path, "eval", "run=run", "trainer=cpu", wrong)
        assert_refused(done, why)


@pytest.mark.bad_input
def test_results_that_cannot_be_written_are_printed(
    pairs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = train_char([*TARGETS, *SOURCES])
    run, *_ = make_run(tmp_path / "run", pairs, tokenizer)
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    (run.path / "eval-test-best.txt").symlink_to(outside)
    answers = Answers(TARGETS, tokenizer)
    evaluated(run.path, monkeypatch, answers)
    assert outside.read_text() == "mine"  # what a link leads to isn't the run's
    monkeypatch.setattr(commands, "write_json", no_room)
    with console.capture() as shown, pytest.raises(UserError, match=r"can't write .*No space"):
        evaluated(run.path, monkeypatch, answers)
    assert "test/exact_match" in shown.get()


def no_room(file: Path, content: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(file))
