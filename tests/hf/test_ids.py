"""An exported model of transformers names the special tokens of its training, in all its files."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from everytoken.commands.answers import Answerer
from everytoken.commands.export import export
from everytoken.commands.factory import instantiate
from everytoken.hf.config import read_config
from everytoken.hf.network import AUTO_CLASSES
from everytoken.model.transformer import Shape
from everytoken.tokenizer.learned import train_bpe
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.module import TokenModule
from support.finished_runs import make_run

TEXTS = ["one two, one", "a much longer line: zwölf", "<eos> is text"]
TASKS: dict[Shape, list[str]] = {
    "decoder": ["task=causal_lm", "data=pydoc"],
    "encoder": ["task=masked_lm", "data=pydoc"],
    "encoder_decoder": [],
}
OLD: dict[str, Any] = {"bos_token_id": 5, "eos_token_id": 7, "pad_token_id": 6, "vocab_size": 300}
SIZES: dict[str, Any] = {
    **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"intermediate_size": 24, "max_position_embeddings": 64},
}
STACKS: dict[str, Any] = {"d_model": 16, "max_position_embeddings": 64}
for side in ("encoder", "decoder"):
    STACKS |= {f"{side}_layers": 1, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 24}


def bert_to_bert() -> Any:
    """A config with two inside, of which each has special tokens of its own."""
    one = transformers.BertConfig(**SIZES, **OLD)
    two = transformers.BertConfig(**SIZES, **OLD, is_decoder=True, add_cross_attention=True)
    return transformers.EncoderDecoderConfig.from_encoder_decoder_configs(one, two)


MODELS: dict[str, tuple[Shape, Any]] = {
    "llama": ("decoder", lambda: transformers.LlamaConfig(**SIZES, **OLD)),
    "gpt2": ("decoder", lambda: transformers.GPT2Config(**OLD, n_embd=16, n_layer=1, n_head=2)),
    "t5": (
        "encoder_decoder",
        lambda: transformers.T5Config(**OLD, d_model=16, d_kv=8, d_ff=24, num_layers=1),
    ),
    "bart": (
        "encoder_decoder",
        lambda: transformers.BartConfig(
            **STACKS, **OLD, decoder_start_token_id=8, forced_eos_token_id=7
        ),
    ),
    "marian": (
        "encoder_decoder",
        lambda: transformers.MarianConfig(**STACKS, **OLD, decoder_start_token_id=6),
    ),
    "bert_to_bert": ("encoder_decoder", bert_to_bert),
    "bert": ("encoder", lambda: transformers.BertConfig(**SIZES, **OLD)),
    "modernbert": ("encoder", lambda: transformers.ModernBertConfig(**SIZES, **OLD)),
}


def make(
    folder: Path, name: str, ends: list[int] | None = None
) -> tuple[Any, TokenModule, Tokenizer]:
    shape, make_config = MODELS[name]
    make_config().save_pretrained(folder / "source")
    if ends:
        transformers.GenerationConfig(eos_token_id=ends).save_pretrained(folder / "source")
    words = ["logger=none", "task.max_new_tokens=null", *TASKS[shape]]
    words += ["model=hf", "model.pretrained=false", f"model.name_or_path={folder / 'source'}"]
    return make_run(folder / "run", words, train_bpe(TEXTS * 9, 280))


def configs(config: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [config[name] for name in ("encoder", "decoder") if name in config]
    return [config, *inner]


def answers(run: Any, module: TokenModule, tokenizer: Tokenizer, limit: int) -> list[str]:
    objective: Any = instantiate(
        run.config, "task.objective", special=tokenizer.special, vocabulary=len(tokenizer)
    )
    return [*Answerer(module, objective, tokenizer, limit).answers(TEXTS, 4)]


@pytest.mark.parametrize("name", MODELS)
def test_each_file_names_them_and_transformers_generates_the_same(
    name: str, tmp_path: Path
) -> None:
    run, module, tokenizer = make(tmp_path, name)
    shape, out = MODELS[name][0], tmp_path / "out"
    export(run.path, out, "best")
    special = tokenizer.special
    right = {"bos_token_id": special.bos, "eos_token_id": special.eos, "pad_token_id": special.pad}
    config = json.loads((out / "config.json").read_text())
    for part in configs(config):
        assert {name: part.get(name) for name in right} == right
        assert part.get("sep_token_id", special.eos) in (special.eos, None)
        assert part.get("forced_eos_token_id") is None
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    assert {name: getattr(theirs, name) for name in right} == right
    if shape == "encoder":
        return
    generation = json.loads((out / "generation_config.json").read_text())
    assert {name: generation[name] for name in right} == right
    if shape == "encoder_decoder":
        start = run.config.task.objective.start_id
        start = special.bos if start is None else start
        assert config["decoder_start_token_id"] == generation["decoder_start_token_id"] == start

    network: Any = getattr(transformers, AUTO_CLASSES[shape]).from_pretrained(out)
    prompts = theirs(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    prompt = prompts["input_ids"].shape[1] if shape == "decoder" else 1
    ours = answers(run, module, tokenizer, 8)
    for chosen in (None, transformers.GenerationConfig.from_model_config(network.config)):
        new = network.generate(**prompts, max_new_tokens=8, generation_config=chosen)[:, prompt:]
        assert theirs.batch_decode(new, skip_special_tokens=True) == ours


@pytest.mark.parametrize("name", ["llama", "gpt2", "bart"])
def test_several_ends_stay_several(name: str, tmp_path: Path) -> None:
    """As instruct models have them, in their generation config."""
    run, module, tokenizer = make(tmp_path, name, [2, 9])
    assert module.model.end_ids == (2, 9)  # generation ends at any, see tests/decoding
    assert tokenizer.special.eos == 2
    out = tmp_path / "out"
    export(run.path, out, "best")
    for file in ("config.json", "generation_config.json"):
        assert json.loads((out / file).read_text())["eos_token_id"] == [2, 9]


def test_our_decoder_made_of_a_llama_ends_as_it_does(tmp_path: Path) -> None:
    make(tmp_path, "llama", [2, 9])
    words = ["logger=none", *TASKS["decoder"], "model=llama_from_hf", "model.pretrained=false"]
    words.append(f"model.path={tmp_path / 'source'}")
    run, module, _ = make_run(tmp_path / "ours", words, train_bpe(TEXTS * 9, 280))
    assert module.model.end_ids == (2, 9)
    export(run.path, tmp_path / "out", "best")
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "out" / file).read_text())["eos_token_id"] == [2, 9]


def test_an_end_of_ones_own_takes_the_place_of_others(tmp_path: Path) -> None:
    run, _, _ = make(tmp_path, "llama", [7, 9])
    export(run.path, tmp_path / "out", "best")
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "out" / file).read_text())["eos_token_id"] == 2
    assert read_config(str(tmp_path / "source"))["eos_token_id"] == [7, 9]


@pytest.mark.bad_input
def test_padding_that_counts_positions_stays_and_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    MODELS["roberta"] = "encoder", lambda: transformers.RobertaConfig(**SIZES, **OLD)
    run, _, _ = make(tmp_path, "roberta")
    export(run.path, tmp_path / "out", "best")  # logits are those of the run
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pad_token_id"] == 6
    assert "takes token 6 for padding" in capsys.readouterr().out
