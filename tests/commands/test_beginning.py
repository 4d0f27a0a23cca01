"""What a new run takes from weights that exist, without training: see test_beginning_runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from everytoken.commands.beginning import Beginning
from everytoken.commands.build import build_module
from everytoken.commands.export import export
from everytoken.errors import UserError
from everytoken.hf.config import read_config
from everytoken.hf.model import HuggingFace
from everytoken.model.transformer import Transformer
from everytoken.run.directory import Run
from everytoken.run.origin import Origin
from everytoken.tokenizer.learned import train_bpe, train_byte, train_char
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.frozen import freeze
from everytoken.training.module import TokenModule
from support import chats
from support.finished_runs import config, make_run
from support.fitting import make_own

TOKENIZER = train_bpe(["one two, one", "zwölf 🦊"] * 9, 280)
V = len(TOKENIZER)
SMALL = ["logger=none", "model.layers=2", "model.width=32", "model.ffn_width=48"]
SMALL += ["task.max_new_tokens=null"]
TASKS = {
    "causal": ["task=causal_lm", "data=pydoc"],
    "untied": ["task=causal_lm", "data=pydoc", "model.tie_embeddings=false"],
    "masked": ["task=masked_lm", "data=pydoc"],
    "seq2seq": [],
}


def parts(module: TokenModule) -> Any:
    """The module's model, whose parts a type checker doesn't know."""
    return module.model


def source(folder: Path, task: str, *words: str) -> tuple[Run, TokenModule]:
    return make_run(folder, [*SMALL, *TASKS[task], *words], TOKENIZER)[:2]


def begun(place: Path, task: str, *words: str, typed: list[str] | None = None) -> TokenModule:
    """The module of a new run."""
    cfg = config(*SMALL, *TASKS[task], *words, f"init_from={place}")
    beginning = Beginning.of(cfg, overrides=typed or [])
    assert beginning is not None
    tokenizer = beginning.tokenizer or TOKENIZER
    module = build_module(cfg, tokenizer, total_steps=1)
    beginning.fill(module, tokenizer)
    return module


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    found = other.state_dict()
    assert found.keys() == one.state_dict().keys()
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, found[name]), name


@pytest.mark.parametrize("task", TASKS)
def test_weights_are_those_of_a_run_a_checkpoint_and_an_exported_folder(tmp_path: Path, task: str):
    run, module = source(tmp_path / "run", task)
    places = [run.path, run.checkpoint("best")]
    if task != "seq2seq":
        export(run.path, tmp_path / "out", "best")
        places.append(tmp_path / "out")
    for place in places:
        assert_same_weights(module, begun(place, task))


def with_other_head(**model: Any) -> TokenModule:
    """A module whose model differs from that of `source(…, "masked")` by its arguments."""
    sizes: dict[str, Any] = dict(config(*SMALL, *TASKS["masked"]).model)
    del sizes["_target_"]
    return make_own(TokenModule, model=Transformer(**{**sizes, "vocabulary": V, **model}))


def beginning_of(place: Path, *words: str) -> Beginning:
    cfg = config(*SMALL, *TASKS["masked"], *words, f"init_from={place}")
    found = Beginning.of(cfg)
    assert found is not None
    return found


@pytest.mark.parametrize("per_sequence", [False, True])
@pytest.mark.parametrize("exported", [False, True])
def test_a_head_of_another_task_is_made_anew_and_named(
    tmp_path: Path, per_sequence: bool, exported: bool
):
    run, module = source(tmp_path / "run", "masked")
    place = run.path
    if exported:
        place = tmp_path / "out"
        export(run.path, place, "best")
    # As many classes as tokens are no tokens.
    for classes in (5, V):
        tagger = with_other_head(classes=classes, per_sequence=per_sequence)
        head = {name: weight.clone() for name, weight in parts(tagger).head.named_parameters()}
        beginning, tokenizer = beginning_of(place), Tokenizer.load(run.tokenizer_file)
        tokenizer.labels = [f"B-{i}" for i in range(classes)]
        told = beginning.fill(tagger, tokenizer)
        assert all(f"model.head.{name}" in told.split("made anew: ")[1] for name in head)
        for name, weight in parts(tagger).head.named_parameters():
            assert torch.equal(weight, head[name])
        rest = dict(module.model.named_parameters())
        for name, weight in tagger.model.named_parameters():
            assert name.startswith("head.") or torch.equal(weight, rest[name])


def test_the_same_classes_keep_their_head_and_others_do_not(tmp_path: Path):
    run, _ = source(tmp_path / "run", "masked")
    tagger = with_other_head(classes=3)
    torch.save({"state_dict": tagger.state_dict()}, run.checkpoint("best"))
    tokenizer = Tokenizer.load(run.tokenizer_file)
    for labels, kept in ((["A", "B", "C"], True), (["A", "B", "D"], False)):
        tokenizer.labels = ["A", "B", "C"]
        tokenizer.save(run.tokenizer_file)
        other = with_other_head(classes=3)
        beginning, tokenizer.labels = beginning_of(run.path), labels
        assert beginning.tokenizer is not None
        assert beginning.tokenizer.labels == []
        told = beginning.fill(other, tokenizer)
        assert ("made anew" in told) is not kept
        assert torch.equal(parts(other).head.weight, parts(tagger).head.weight) is kept


@pytest.mark.parametrize("vocabulary", [V + 10, V - 10])
@pytest.mark.parametrize("tied", [True, False])
def test_tokens_that_both_know_keep_their_embedding(tmp_path: Path, vocabulary: int, tied: bool):
    words = [] if tied else ["model.tie_embeddings=false"]
    run, module = source(tmp_path / "run", "masked", *words)
    other = with_other_head(vocabulary=vocabulary, tie_embeddings=tied)
    own = parts(other).embedding.weight.clone()
    tokenizer = Tokenizer.load(run.tokenizer_file)
    told = beginning_of(run.path, *words).fill(other, tokenizer)
    both = min(vocabulary, V)
    found, there = parts(other).embedding.weight, parts(module).embedding.weight
    assert torch.equal(found[:both], there[:both])
    assert torch.equal(found[both:], own[both:])
    assert (f"model.embedding.weight beyond {V} rows" in told) is (vocabulary > both)
    assert torch.equal(parts(other).head.weight[:both], parts(module).head.weight[:both])
    assert (f"model.head.weight beyond {V} rows" in told) is (vocabulary > both and not tied)
    assert parts(other).new_tokens == vocabulary - both


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        ("causal", ["model.width=64"], "here: type model.width=32"),
        ("causal", ["model.layers=1", "model.ffn_width=32"], "type model.layers=2 model.ffn_width"),
        ("causal", ["model.layers=3"], "is missing there and .* type model.layers=2"),
        ("causal", ["model.heads=2"], "weights mean nothing here: type model.heads=4"),
        ("masked", [], "its shape is decoder, and task=masked_lm needs encoder; choose a task"),
        ("seq2seq", [], "its shape is decoder, and task=seq2seq needs encoder_decoder"),
        ("causal", ["model=project"], "its model is everytoken.model.Transformer; choose that"),
    ],
)
def test_another_model_is_refused_with_what_to_type(
    tmp_path: Path, task: str, words: list[str], message: str
):
    run, _ = source(tmp_path / "run", "causal")
    export(run.path, tmp_path / "out", "best")
    small = SMALL if "model=project" not in words else ["logger=none", "task.max_new_tokens=null"]
    for place in (run.path, tmp_path / "out"):
        if place == tmp_path / "out" and "model=project" in words:
            message = "holds a model of transformers .* by model=hf model.name_or_path="
        cfg = config(*small, *TASKS[task], *words, f"init_from={place}")
        beginning = Beginning.of(cfg)
        assert beginning is not None
        module = build_module(cfg, TOKENIZER, total_steps=1)
        with pytest.raises(UserError, match=message) as refused:
            beginning.fill(module, TOKENIZER)
        assert "\n" not in str(refused.value)


@pytest.mark.bad_input
def test_weights_with_a_head_of_their_own_are_not_tied(tmp_path: Path):
    run, _ = source(tmp_path / "run", "untied")
    with pytest.raises(UserError, match=r"type model\.tie_embeddings=false"):
        begun(run.path, "causal")


def test_what_was_trained_otherwise_and_has_no_shape_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, _ = source(tmp_path / "run", "causal")
    begun(run.path, "causal", "model.rope_base=500000", "model.dropout=0.1")
    printed = " ".join(capsys.readouterr().out.split())
    assert "were trained otherwise: model.rope_base 10000.0 -> 500000" in printed
    assert "dropout" not in printed


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("frozen", "tokens", "told"),
    [
        ("embedding", V + 1, f"made anew: model.embedding.weight beyond {V} rows; leave that"),
        ("head*", 5, "made anew: .*model.head"),
        ("encoder.blocks.0", V + 1, None),
    ],
)
def test_what_is_made_anew_is_not_frozen(
    tmp_path: Path, frozen: str, tokens: int, told: str | None
):
    run, _ = source(tmp_path / "run", "masked")
    other = with_other_head(**({"vocabulary": tokens} if tokens > V else {"classes": tokens}))
    freeze(other.model, [frozen])
    beginning, tokenizer = beginning_of(run.path), Tokenizer.load(run.tokenizer_file)
    tokenizer.labels = ["A"] * (tokens if tokens < V else 0)
    if told is None:
        assert "beyond" in beginning.fill(other, tokenizer)
        return
    with pytest.raises(UserError, match=f"freeze would leave at random what is {told}"):
        beginning.fill(other, tokenizer)


@pytest.mark.bad_input
def test_a_tokenizer_that_was_typed_has_to_be_the_same(tmp_path: Path):
    run, module = source(tmp_path / "run", "causal")
    typed = ["tokenizer=bpe", "tokenizer.vocabulary_size=280"]
    assert_same_weights(module, begun(run.path, "causal", typed=typed))
    for other in (train_byte([]), train_char(["abc"])):
        beginning = Beginning.of(config(*SMALL, f"init_from={run.path}"), overrides=typed)
        assert beginning is not None
        assert beginning.tokenizer is None
        with pytest.raises(UserError, match=r"another vocabulary .* leave out tokenizer"):
            beginning.fill(module, other)


@pytest.mark.bad_input
def test_weights_that_changed_since_the_run_began_are_refused(tmp_path: Path):
    run, _ = source(tmp_path / "run", "causal")
    cfg = config(*SMALL, *TASKS["causal"], f"init_from={run.path}")
    record = {"init_from": Origin.find(str(run.path)).record()}
    new = Run.create(tmp_path / "new", cfg, record)
    assert Beginning.of(cfg, new)
    with run.checkpoint("best").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match="is not what it was when this run was started"):
        Beginning.of(cfg, new)


@pytest.mark.bad_input
def test_code_in_a_checkpoint_does_not_run_and_its_config_builds_nothing(tmp_path: Path):
    run, module = source(tmp_path / "run", "causal")
    cfg = run.config
    cfg.model._target_, cfg.optimizer._target_ = "os.system", "os.system"
    run.write_config(cfg)
    assert_same_weights(module, begun(run.path, "causal"))
    torch.save({"state_dict": {}, "x": Path()}, run.checkpoint("best"))
    with pytest.raises(UserError, match="could run code"):
        begun(run.path, "causal")


def test_a_model_of_transformers_begins_with_that_of_a_run(tmp_path: Path):
    causal = source(tmp_path / "llama", "causal")[0]
    export(causal.path, tmp_path / "out", "best")
    words = ["logger=none", *TASKS["causal"], "model=hf", f"model.name_or_path={tmp_path}/out"]
    words += ["tokenizer=pretrained", f"tokenizer.path={tmp_path}/out", "task.max_new_tokens=null"]
    run, module, tokenizer = make_run(tmp_path / "run", words, TOKENIZER)
    (tmp_path / "out" / "model.safetensors").unlink()  # nothing is read of it any more
    cfg = config(*words, f"init_from={run.path}")
    beginning = Beginning.of(cfg)
    assert beginning is not None
    other = build_module(cfg, tokenizer, total_steps=1)
    beginning.fill(other, tokenizer)
    assert_same_weights(module, other)


@pytest.mark.parametrize("tied", [True, False])
def test_tokens_of_chats_are_new_to_a_model_of_transformers(tmp_path: Path, tied: bool):
    causal = source(tmp_path / "llama", "causal" if tied else "untied")[0]
    export(causal.path, tmp_path / "out", "best")
    words = ["logger=none", "model=hf", f"model.name_or_path={tmp_path}/out"]
    words += ["tokenizer=pretrained", f"tokenizer.path={tmp_path}/out", "task.max_new_tokens=null"]
    run, module, tokenizer = make_run(tmp_path / "run", [*words, *TASKS["causal"]], TOKENIZER)
    tokenizer = chats.made(tokenizer, "chatml").tokenizer
    cfg = config(*words, "task=sft", "data=chat_dates", f"init_from={run.path}")
    beginning = Beginning.of(cfg)
    assert beginning is not None
    other = build_module(cfg, tokenizer, total_steps=1)
    told = beginning.fill(other, tokenizer)
    assert f"embed_tokens.weight beyond {V} rows" in told
    assert parts(other).new_tokens == len(tokenizer) - V == 2
    found = other.state_dict()
    for name, weight in module.state_dict().items():
        assert torch.equal(found[name][: len(weight)], weight), name


@pytest.mark.parametrize("per_sequence", [False, True])
def test_a_masked_model_of_transformers_begins_one_of_classes(tmp_path: Path, per_sequence: bool):
    masked = source(tmp_path / "ours", "masked")[0]
    out = tmp_path / "out"
    export(masked.path, out, "best")
    words = ["logger=none", *TASKS["masked"], "model=hf", f"model.name_or_path={out}"]
    words += ["tokenizer=pretrained", f"tokenizer.path={out}"]
    run, module, _ = make_run(tmp_path / "run", words, TOKENIZER)
    tokenizer = Tokenizer.load(run.tokenizer_file)
    model = HuggingFace(
        shape="encoder",
        vocabulary=V,
        name_or_path="",
        config=read_config(str(out)),
        pretrained=False,
        classes=3,
        per_sequence=per_sequence,
    )
    other = make_own(TokenModule, model=model)
    tokenizer.labels = ["A", "B", "C"]
    beginning = Beginning.of(config(*words, f"init_from={run.path}"))
    assert beginning is not None
    told = beginning.fill(other, tokenizer)
    there = dict(module.model.named_parameters())
    inside = {n: p for n, p in model.named_parameters() if n.startswith("network.model.")}
    assert inside
    assert all(torch.equal(weight, there[name]) for name, weight in inside.items())
    new = [name for name, _ in model.named_parameters() if name not in inside]
    assert all(f"model.{name}" in told.split("made anew: ")[1] for name in new)
