"""Adapters: only they are trained and kept, and they go out merged or apart."""

import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor

from everytoken.commands.adapting import adapt
from everytoken.commands.beginning import Beginning
from everytoken.commands.build import build_module
from everytoken.commands.evaluate import load_module
from everytoken.commands.export import export
from everytoken.errors import UserError
from everytoken.hf.adapter import chosen, factors, token_parts, without_adapter
from everytoken.run.checkpoint_file import load_weights
from everytoken.run.directory import Run
from everytoken.run.origin import Origin
from everytoken.tokenizer.learned import train_bpe
from everytoken.tokenizer.tokenizer import Tokenizer
from everytoken.training.adapted import Base
from everytoken.training.module import TokenModule
from support.chats import made
from support.finished_runs import config, make_run
from support.helpers import make_batch, make_model

TOKENIZER = train_bpe(["one two, one", "zwölf 🦊"] * 9, 280)
SMALL = ["logger=none", "model.layers=2", "model.width=32", "model.ffn_width=48"]
SMALL += ["model.key_value_heads=2", "task.max_new_tokens=null"]
LORA = ["adapter=lora", "adapter.rank=3"]
TASKS = {
    "causal": ["task=causal_lm", "data=pydoc"],
    "masked": ["task=masked_lm", "data=pydoc"],
    "seq2seq": [],
}


def adapted(cfg: Any, run: Run | None = None, tokenizer: Tokenizer = TOKENIZER) -> TokenModule:
    """A module with an adapter that has learned something."""
    begun = Beginning.of(cfg, run)
    module = build_module(cfg, tokenizer, total_steps=1)
    if begun:
        begun.fill(module, tokenizer)
    adapt(cfg, module)
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.3)
    return module.eval()


def save(run: Run, module: TokenModule) -> None:
    """As the trainer does."""
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict(), "global_step": 3}
    module.on_save_checkpoint(checkpoint)
    run.checkpoint("best").parent.mkdir(exist_ok=True)
    torch.save(checkpoint, run.checkpoint("best"))


def adapted_run(
    folder: Path, words: list[str], tokenizer: Tokenizer = TOKENIZER, **record: Any
) -> tuple[Run, TokenModule]:
    run = Run.create(folder, config(*words, *LORA), record)
    tokenizer.save(run.tokenizer_file)
    module = adapted(run.config, run, tokenizer)
    save(run, module)
    return run, module


def ours(tmp_path: Path, task: str, *more: str) -> tuple[Run, TokenModule]:
    base = make_run(tmp_path / "base", [*SMALL, *TASKS[task]], TOKENIZER)[0]
    words = [*SMALL, *TASKS[task], f"init_from={base.path}", *more]
    record = Origin.find(str(base.path)).record()
    return adapted_run(tmp_path / "run", words, init_from=record)


def of_transformers(tmp_path: Path) -> tuple[Run, TokenModule]:
    base = make_run(tmp_path / "base", [*SMALL, *TASKS["causal"]], TOKENIZER)[0]
    out = tmp_path / "hf"
    export(base.path, out, "best")
    words = ["logger=none", *TASKS["causal"], "model=hf", f"model.name_or_path={out}"]
    words += ["tokenizer=pretrained", f"tokenizer.path={out}", "task.max_new_tokens=null"]
    return adapted_run(tmp_path / "run", words)


def logits(module: TokenModule, task: str) -> Tensor:
    batch = make_batch([5, 3], with_source=task == "seq2seq")
    with torch.no_grad():
        return module.head(module.hidden(batch))


@pytest.mark.parametrize("task", [*TASKS, "hf"])
def test_a_checkpoint_holds_the_adapter_only_and_is_read_over_its_base(tmp_path: Path, task: str):
    run, module = of_transformers(tmp_path) if task == "hf" else ours(tmp_path, task)
    kept = torch.load(run.checkpoint("best"), weights_only=True)
    assert all(re.search(r"lora_[AB]\.default\.weight", name) for name in kept["state_dict"])
    assert len(kept["state_dict"]) == 2 * len(factors(module.model))
    assert str(kept["adapter"]["base"]) == str(tmp_path / ("hf" if task == "hf" else "base"))
    loaded = load_module(run, run.config, TOKENIZER, "best")
    assert torch.equal(logits(loaded, task), logits(module, task))
    trained = {name for name, weight in module.named_parameters() if weight.requires_grad}
    assert trained == kept["state_dict"].keys()
    before = logits(module, task)
    without_adapter(module.model, merge=False)
    assert not torch.allclose(logits(module, task), before, rtol=1e-2)


@pytest.mark.parametrize("task", ["causal", "masked", "hf"])
def test_it_goes_out_merged_or_apart_as_peft_loads_it(tmp_path: Path, task: str):
    run, module = of_transformers(tmp_path) if task == "hf" else ours(tmp_path, task)
    assert "model.safetensors" in export(run.path, tmp_path / "whole", "best")
    out = tmp_path / "apart"
    found = export(run.path, out, "best", merge=False)
    assert {"adapter_config.json", "adapter_model.safetensors", "base"} == {*found}
    settings = json.loads((out / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(out / "base")
    masked, causal = transformers.AutoModelForMaskedLM, transformers.AutoModelForCausalLM
    auto: Any = masked if task == "masked" else causal
    whole = auto.from_pretrained(tmp_path / "whole")
    apart = peft.PeftModel.from_pretrained(auto.from_pretrained(out / "base"), out)
    ids = torch.arange(5, 12)[None]
    right = logits(module, task)
    batch = make_batch([5, 3])
    for network in (whole, apart):
        given = {"input_ids": batch.input_ids, "attention_mask": batch.is_real.long()}
        with torch.no_grad():
            theirs = network.eval()(**given).logits[batch.is_target]
        torch.testing.assert_close(theirs, right, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(whole(ids).logits, apart(ids).logits, rtol=1e-4, atol=1e-4)


def test_an_encoder_decoder_goes_out_merged(tmp_path: Path):
    run, _ = ours(tmp_path, "seq2seq")
    assert "model.pt2" in export(run.path, tmp_path / "out", "best")
    with pytest.raises(UserError, match="as a program, whole: leave out merge=false"):
        export(run.path, tmp_path / "apart", "best", merge=False)
    with pytest.raises(UserError, match="has no adapter to keep apart: leave out merge=false"):
        export(tmp_path / "base", tmp_path / "apart", "best", merge=False)


@pytest.mark.bad_input
def test_a_base_that_changed_is_refused(tmp_path: Path):
    run, _ = ours(tmp_path, "causal")
    module = adapted(run.config)
    module.base = Base("elsewhere", "0" * 64)
    with pytest.raises(UserError, match=r"of .*/base, whose weights were others .* of elsewhere"):
        load_weights(module, run.checkpoint("best"))
    plain = make_run(tmp_path / "plain", [*SMALL, *TASKS["causal"]], TOKENIZER)[0]
    with pytest.raises(UserError, match="holds another model"):
        load_weights(module, plain.checkpoint("best"))
    torch.save({"state_dict": {}}, Run(tmp_path / "base").checkpoint("best"))
    with pytest.raises(UserError, match="is not what it was when this run was started"):
        load_module(run, run.config, TOKENIZER, "best")


@pytest.mark.bad_input
def test_an_adapter_alone_begins_no_run(tmp_path: Path):
    run, _ = ours(tmp_path, "causal")
    cfg = config(*SMALL, *TASKS["causal"], f"init_from={run.path}")
    begun = Beginning.of(cfg)
    assert begun is not None
    with pytest.raises(UserError, match=r"holds an adapter only: .*export_hf\.py run=.*run out="):
        begun.fill(build_module(cfg, TOKENIZER, total_steps=1), TOKENIZER)


def test_targets_are_names_ends_of_names_or_patterns():
    model = make_model("encoder_decoder")
    everything = chosen(model, None)
    assert len(everything) == 2 * 5 + 2 * 8
    assert "head" not in everything
    assert chosen(model, "query") == [name for name in everything if name.endswith(".query")]
    assert len(chosen(model, ["attention.query", "cross.query"])) == 2 * 2 + 2
    assert all(name.startswith("decoder.") for name in chosen(model, ["decoder.*"]))
    assert chosen(model, ["decoder.blocks.0.ffn.down"]) == ["decoder.blocks.0.ffn.down"]


@pytest.mark.bad_input
@pytest.mark.parametrize("target", ["q_proj", "head", "embedding", "decoder.blocks.0", "norm"])
def test_a_target_that_is_no_layer_is_refused(target: str):
    with pytest.raises(UserError, match=rf"{target} is no linear layer of .*: nearest are \w"):
        chosen(make_model("decoder"), ["query", target])


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adapter=lora"], "needs init_from: give init_from=VALUE, a run, or choose model=hf"),
        (["adapter=lora", "init_from=/tmp", "freeze=[encoder]"], "leave out freeze"),
        (["adapter=lora", "init_from=/tmp", "adapter.rank=0"], r"adapter\.rank must be a whole"),
        (["adapter=lora", "init_from=/tmp", "adapter.alpha=0"], r"adapter\.alpha must be above 0"),
        (["adapter=lora", "init_from=/tmp", "adapter.dropout=1"], r"adapter\.dropout must be a"),
        (["adapter=lora", "init_from=/tmp", "adapter.targets=[]"], r"adapter\.targets must be na"),
        (["adapter=lora", "init_from=/tmp", "adapter.targets=3"], r"adapter\.targets must be na"),
    ],
)
def test_wrong_settings_are_refused(words: list[str], message: str):
    with pytest.raises(UserError, match=message):
        config(*words)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["ours", "hf"])
def test_rows_of_new_tokens_are_trained_and_kept_beside_the_adapter(
    tmp_path: Path, kind: str, tied: bool
):
    """A model of texts that learns chats, whose markup it has never seen."""
    sizes = [*SMALL, f"model.tie_embeddings={str(tied).lower()}"]
    base = make_run(tmp_path / "base", [*sizes, *TASKS["causal"]], TOKENIZER)[0]
    tokenizer = made(TOKENIZER, "chatml").tokenizer
    words = ["task=sft", "data=chat_dates"]
    if kind == "hf":
        export(base.path, tmp_path / "hf", "best")
        words += ["logger=none", "model=hf", f"model.name_or_path={tmp_path}/hf"]
        words += ["tokenizer=pretrained", f"tokenizer.path={tmp_path}/hf"]
        run, module = adapted_run(tmp_path / "run", words, tokenizer)
    else:
        words += [*sizes, f"init_from={base.path}"]
        record = Origin.find(str(base.path)).record()
        run, module = adapted_run(tmp_path / "run", words, tokenizer, init_from=record)
    kept = torch.load(run.checkpoint("best"), weights_only=True)["state_dict"]
    rows = {name: weight for name, weight in kept.items() if ".lora_" not in name}
    assert {len(weight) for weight in rows.values()} == {len(tokenizer)}
    assert len(rows) == 2  # of what is read and what is predicted, be they one or not
    torch.manual_seed(3)  # of what is made anew once more
    loaded = load_module(run, run.config, tokenizer, "best")
    right = logits(module, "causal")
    assert right.shape[1] == len(tokenizer) == len(TOKENIZER) + 2
    assert torch.equal(logits(loaded, "causal"), right)
    assert "model.safetensors" in export(run.path, tmp_path / "whole", "best")
    out = tmp_path / "apart"
    export(run.path, out, "best", merge=False)
    auto: Any = transformers.AutoModelForCausalLM
    apart = peft.PeftModel.from_pretrained(auto.from_pretrained(out / "base"), out).eval()
    batch = make_batch([5, 3])
    for network in (auto.from_pretrained(tmp_path / "whole").eval(), apart):
        with torch.no_grad():
            theirs = network(batch.input_ids, attention_mask=batch.is_real.long()).logits
        torch.testing.assert_close(theirs[batch.is_target], right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("kind", ["llama_from_hf", "hf", "init_from"])
def test_rows_that_a_model_has_to_spare_are_those_of_new_tokens(
    tmp_path: Path, kind: str, rows: int, capsys: pytest.CaptureFixture[str]
):
    """Whose vocabulary is padded: by fewer rows than there are new tokens, and by more."""
    base = make_run(tmp_path / "base", [*SMALL, *TASKS["causal"]], TOKENIZER)[0]
    place = tmp_path / "hf"
    export(base.path, place, "best")
    auto: Any = transformers.AutoModelForCausalLM
    padded = auto.from_pretrained(place)
    padded.resize_token_embeddings(len(TOKENIZER) + rows)
    padded.get_input_embeddings().weight.data[len(TOKENIZER) :] = 0
    padded.save_pretrained(place)
    tokenizer = made(TOKENIZER, "chatml").tokenizer
    words = ["logger=none", "task=sft", "data=chat_dates"]
    record = {}
    if kind == "init_from":
        words += [*SMALL, f"init_from={place}"]
        record = {"init_from": Origin.find(str(place)).record()}
    else:
        key = "name_or_path" if kind == "hf" else "path"
        words += [f"model={kind}", f"model.{key}={place}", "task.max_new_tokens=null"]
        words += ["tokenizer=pretrained", f"tokenizer.path={place}"]
    cfg = config(*words, *LORA)
    begun = Beginning.of(cfg, overrides=[])
    module = build_module(cfg, tokenizer, total_steps=1)
    told = begun.fill(module, tokenizer) if begun else capsys.readouterr().out
    assert "made anew: " in told
    [table] = [p for p in token_parts(module.model) if isinstance(p, torch.nn.Embedding)]
    new = table.weight[len(TOKENIZER) : len(tokenizer)]
    assert len(new) == 2
    assert new.abs().amax(1).min() > 0
    assert torch.equal(table.weight[: len(TOKENIZER)], padded.model.embed_tokens.weight[:-rows])
    run, module = adapted_run(tmp_path / "run", words, tokenizer, **record)
    kept = torch.load(run.checkpoint("best"), weights_only=True)["state_dict"]
    assert [name for name in kept if "embed" in name]
    loaded = load_module(run, run.config, tokenizer, "best")
    assert torch.equal(logits(loaded, "causal"), logits(module, "causal"))


@pytest.mark.bad_input
def test_a_head_that_no_base_has_is_not_left_at_random(tmp_path: Path):
    untied = [*SMALL, *TASKS["masked"], "model.tie_embeddings=false"]
    base = make_run(tmp_path / "base", untied, TOKENIZER)[0]
    tokenizer = Tokenizer.load(base.tokenizer_file)
    tokenizer.labels = ["A"]
    tokenizer.save(base.tokenizer_file)  # as of a model of classes
    with pytest.raises(UserError, match=r"made anew: model\.head.*; leave adapter out"):
        adapted(config(*untied, *LORA, f"init_from={base.path}"))


@pytest.mark.parametrize("kind", ["ours", "hf"])
def test_a_head_of_classes_is_trained_and_kept_beside_the_adapter(tmp_path: Path, kind: str):
    masked = make_run(tmp_path / "masked", [*SMALL, *TASKS["masked"]], TOKENIZER)[0]
    words = ["logger=none", "task=token_classification", "data=date_parts", *LORA]
    if kind == "hf":
        export(masked.path, tmp_path / "hf", "best")
        words += ["model=hf", f"model.name_or_path={tmp_path}/hf", "tokenizer=pretrained"]
        words += [f"tokenizer.path={tmp_path}/hf"]
    else:
        words += [*SMALL[1:], f"init_from={masked.path}"]
    tokenizer = Tokenizer.load(masked.tokenizer_file)
    tokenizer.labels = ["A", "B", "C"]
    found: list[TokenModule] = []
    for seed in (1, 2):  # of what is made anew
        torch.manual_seed(seed)
        cfg = config(*words)
        begun = Beginning.of(cfg)
        module = build_module(cfg, tokenizer, total_steps=1)
        if begun:
            begun.fill(module, tokenizer)
        adapt(cfg, module)
        found.append(module.eval())
    one, other = found
    assert one.base == other.base
    checkpoint: dict[str, Any] = {"state_dict": one.state_dict()}
    one.on_save_checkpoint(checkpoint)
    parts = {name.split(".lora_")[0] for name in checkpoint["state_dict"] if ".lora_" in name}
    heads = {name for name in checkpoint["state_dict"] if ".lora_" not in name}
    assert heads == {name for name, w in one.named_parameters() if w.requires_grad} - {
        name for name in checkpoint["state_dict"] if ".lora_" in name
    }
    assert heads
    assert not any(head.startswith(f"{part}.") for head in heads for part in parts)
    torch.save(checkpoint, tmp_path / "x.ckpt")
    load_weights(other, tmp_path / "x.ckpt")
    batch = make_batch([5, 3])
    with torch.no_grad():
        assert torch.equal(one.head(one.hidden(batch)), other.head(other.hidden(batch)))
