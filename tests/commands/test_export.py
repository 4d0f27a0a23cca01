"""What goes out computes, encodes and generates what the run does, in the libraries' own hands."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from everytoken.audit.subject import pad_anew
from everytoken.commands.answers import Answerer
from everytoken.commands.evaluate import load_module
from everytoken.commands.export import export
from everytoken.commands.factory import factory, instantiate
from everytoken.corpora.conversations import Conversation
from everytoken.data.collate import collate
from everytoken.data.objective import ExampleKey, build_objective
from everytoken.errors import UserError
from everytoken.run.directory import Run
from everytoken.tokenizer.learned import train_bpe, train_char
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.module import TokenModule
from support import chats, finished_runs
from support.helpers import make_batch

ROOT = Path(__file__).parents[2]
TEXTS = ["one two, one", "a much longer line: zwölf 🦊 三", "", "<eos> is text"]
SMALL = ["logger=none", "model.layers=2", "model.width=32", "model.ffn_width=48"]
SMALL += ["model.key_value_heads=2", "task.max_new_tokens=null"]
TASKS = {
    "causal": ["task=causal_lm", "data=pydoc"],
    "window": ["task=causal_lm", "data=pydoc", "model.window=3"],
    "untied": ["task=causal_lm", "data=pydoc", "model.tie_embeddings=false"],
    "masked": ["task=masked_lm", "data=pydoc"],
    "pairs": ["task=prefix_lm", "data=dates", "task.objective.two_way=false"],
}


def make_run(
    folder: Path, words: list[str], tokenizer: Tokenizer | None = None
) -> tuple[Run, TokenModule, Tokenizer]:
    return finished_runs.make_run(folder, words, tokenizer or train_bpe(TEXTS * 9, 280))


@pytest.mark.parametrize("task", ["causal", "window", "untied", "masked"])
def test_logits_and_encoding_are_the_runs_own(tmp_path: Path, task: str) -> None:
    run, module, tokenizer = make_run(tmp_path / "run", [*SMALL, *TASKS[task]])
    out = tmp_path / "out"
    assert "model.safetensors" in export(run.path, out, "best")
    names = {"window": "MistralForCausalLM", "masked": "EuroBertForMaskedLM"}
    architecture = json.loads((out / "config.json").read_text())["architectures"]
    assert architecture == [names.get(task, "LlamaForCausalLM")]

    auto = transformers.AutoModelForMaskedLM if task == "masked" else None
    network = (auto or transformers.AutoModelForCausalLM).from_pretrained(out).eval()
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    objective = instantiate(
        run.config.task, "objective", special=tokenizer.special, vocabulary=len(tokenizer)
    )
    # Of a masked model transformers finds special tokens in texts, and that is told.
    texts = [text for text in TEXTS if task != "masked" or "<" not in text]
    records = [{"text": ids} for ids in tokenizer.encode(texts)]
    items = [objective.items(record)[0] for record in records]
    read = [item.ids if task == "masked" else item.ids[:-1] for item in items]
    assert theirs(texts)["input_ids"] == [ids.tolist() for ids in read]
    for ids in tokenizer.encode(texts):
        assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)

    examples = [objective.example(item, ExampleKey(0, 0, 0)) for item in items]
    batch = collate(examples, tokenizer.special.pad)
    right = module.head(module.model(batch))
    assert right.std() > 0.1
    for side in ("right", "left"):
        padded = pad_anew(batch, extra=2, side=side)
        logits = network(padded.input_ids, attention_mask=padded.is_real.long()).logits
        torch.testing.assert_close(logits[padded.is_target], right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("task", ["causal", "window", "pairs"])
def test_generate_gives_the_same_tokens(tmp_path: Path, task: str) -> None:
    run, module, tokenizer = make_run(tmp_path / "run", [*SMALL, *TASKS[task]])
    export(run.path, tmp_path / "out", "best")
    network: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert network.generation_config.eos_token_id == tokenizer.special.eos
    prompts = theirs(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    new = network.generate(**prompts, max_new_tokens=12)[:, prompts["input_ids"].shape[1] :]
    objective: Any = instantiate(
        run.config.task, "objective", special=tokenizer.special, vocabulary=len(tokenizer)
    )
    ours = [*Answerer(module, objective, tokenizer, 12).answers(TEXTS, len(TEXTS))]
    expected = theirs.batch_decode(new, skip_special_tokens=True)
    if task == "pairs":  # a blank line was never asked anything
        expected = [answer if text else "" for text, answer in zip(TEXTS, expected, strict=True)]
    assert ours == expected
    assert len(set(ours)) > 1


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_tags_of_words_are_those_of_a_pipeline(tmp_path: Path, kind: str) -> None:
    tokenizer = train_bpe(TEXTS * 9, 280) if kind == "bpe" else train_char(TEXTS)
    tokenizer.labels = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    words = [*SMALL, "task=token_classification", "data=date_parts"]
    run, module, tokenizer = make_run(tmp_path / "run", words, tokenizer)
    out = tmp_path / "out"
    export(run.path, out, "best")
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["EuroBertForTokenClassification"]
    assert config["id2label"] == {str(i): name for i, name in enumerate(tokenizer.labels)}

    objective: Any = build_objective(factory(run.config, "task.objective"), tokenizer)
    lines = ["one two , one", "a much longer line", "<eos> is text"]
    answers = [*Answerer(module, objective, tokenizer, 1).answers(lines, 2)]
    tagged = [[pair.rsplit("/", 1) for pair in answer.split(" ")] for answer in answers]
    tagger = transformers.pipeline("token-classification", str(out), ignore_labels=[])
    found = set()
    for pairs in tagged:
        text = " ".join(word for word, _ in pairs)
        # A word's first token may begin with the space before it.
        told: Any = tagger(text)
        tags = {t["start"] + t["word"].startswith("Ġ"): t["entity"] for t in told}
        begin = 0
        for word, tag in pairs:
            assert tag == tags[begin], (text, word)
            found.add(tag)
            begin += len(word) + 1
    assert len(found) > 2


def script(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """python scripts/export_hf.py WORDS"""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "argv", ["export_hf.py", *words])
    importlib.import_module("export_hf").main()


def test_an_encoder_decoder_is_a_program_for_any_batch_and_needs_torch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, module, tokenizer = make_run(
        tmp_path / "run", [*SMALL, "model.layers=1", "model.window=2"]
    )
    out = tmp_path / "out"
    script(monkeypatch, str(run.path), f"out={out}")  # as well as run=DIR
    told, files = capsys.readouterr().out.splitlines()[-1].split(" has ")
    assert told == str(out)
    assert sorted(files.split(", ")) == sorted(file.name for file in out.iterdir())
    program = torch.export.load(out / "model.pt2").module()
    for lengths in ([9, 3, 6, 2], [4], [1, 8]):
        batch = make_batch(lengths, with_source=True, seed=sum(lengths))
        right = module.head(module.hidden(batch))
        assert len(right)
        for extra in (0, 3):
            b = pad_anew(batch, extra=extra)
            logits = program(b.source_ids, b.source_lengths, b.input_ids, b.lengths)
            torch.testing.assert_close(logits[b.is_target], right, rtol=1e-5, atol=1e-5)

    theirs = transformers.AutoTokenizer.from_pretrained(out)
    generation = transformers.GenerationConfig.from_pretrained(out)
    source = tokenizer.encode(["one two"])[0]
    code = (
        "import sys, torch\n"
        f"program = torch.export.load({str(out / 'model.pt2')!r}).module()\n"
        f"source = torch.tensor([{theirs('one two')['input_ids']}])\n"
        f"ids = [{generation.decoder_start_token_id}]\n"
        "while len(ids) < 9:\n"
        "    lengths = torch.tensor([source.shape[1]]), torch.tensor([len(ids)])\n"
        "    logits = program(source, lengths[0], torch.tensor([ids]), lengths[1])\n"
        "    ids.append(int(logits[0, -1].argmax()))\n"
        "print(ids[1:], 'everytoken' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    objective: Any = instantiate(
        run.config.task, "objective", special=tokenizer.special, vocabulary=len(tokenizer)
    )
    [new] = module.generate(collate([objective.prompt(source)], tokenizer.special.pad), 8)
    assert len(new) == 8  # it doesn't end before
    assert ran.stdout == f"{new} False\n", ran.stderr


def test_a_model_of_transformers_goes_out_as_it_came(tmp_path: Path) -> None:
    source = tmp_path / "source"
    transformers.GPT2Config(
        vocab_size=300, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2
    ).save_pretrained(source)
    words = ["logger=none", *TASKS["causal"], "model=hf", "model.pretrained=false"]
    run, module, tokenizer = make_run(tmp_path / "run", [*words, f"model.name_or_path={source}"])
    source.joinpath("config.json").unlink()
    source.rmdir()  # a finished run needs it no more
    loaded = load_module(run, run.config, tokenizer, "best")
    batch = make_batch([4, 2])
    assert torch.equal(loaded.hidden(batch), module.hidden(batch))
    export(run.path, tmp_path / "out", "best")
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    logits = network(batch.input_ids, attention_mask=batch.is_real.long()).logits
    right = module.head(module.hidden(batch))
    torch.testing.assert_close(logits[batch.is_target], right, rtol=1e-5, atol=1e-5)


def test_nothing_is_left_of_an_export_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, _ = make_run(tmp_path / "run", [*SMALL, *TASKS["causal"]])
    before = sorted(tmp_path.iterdir())

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(transformers.GenerationConfig, "save_pretrained", full)
        with pytest.raises(UserError, match="No space left"):
            export(run.path, tmp_path / "out", "best")
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / "out").mkdir()  # an empty folder will do
    export(run.path, tmp_path / "out", "best")
    with pytest.raises(UserError, match="is not empty"):
        export(run.path, tmp_path / "out", "best")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "use python scripts/export_hf.py run=DIR out=DIR"),
        (["run=a", "out=b", "weights=c"], "unknown weights"),
        (["run=nowhere", "out=b"], "no run directory nowhere"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        script(monkeypatch, *words)
    assert left.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert told in line


@pytest.mark.bad_input
def test_a_prefix_that_is_seen_both_ways_stays_here(tmp_path: Path) -> None:
    run, _, _ = make_run(tmp_path / "run", [*SMALL, *TASKS["pairs"][:2]])
    with pytest.raises(UserError, match=r"both ways.*task\.objective\.two_way=false"):
        export(run.path, tmp_path / "out", "best")


@pytest.mark.parametrize("template", ["chatml", "llama3"])
def test_chats_go_out_with_their_template(tmp_path: Path, template: str) -> None:
    """`apply_chat_template` and `generate` of transformers give the run's own answers."""
    objective = chats.made(train_bpe(TEXTS * 9, 280), template)
    words = [*SMALL, "task=sft", "data=chat_dates", f"task.objective.template={template}"]
    run, module, tokenizer = finished_runs.make_run(tmp_path / "run", words, objective.tokenizer)
    out = tmp_path / "out"
    export(run.path, out, "best")
    network: Any = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    answerer = Answerer(module, chats.made(tokenizer, template), tokenizer, 8)
    for texts in (["one two"], ["zwölf 🦊", "yes", "one, one"]):
        messages = chats.said(*texts, system="one")
        ids: Any = theirs.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        new = network.generate(**ids, max_new_tokens=8)[0, ids["input_ids"].shape[1] :]
        asked = answerer.prompt(Conversation(messages), 0)
        assert asked is not None
        assert asked.input_ids.tolist() == ids["input_ids"][0].tolist()
        assert theirs.decode(new, skip_special_tokens=True) == answerer.answer([asked], [0])[0]
    assert network.generation_config.eos_token_id == tokenizer.special.eos
