"""Llama's weights ↔ ours: the same logits, and every bit on the way there and back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from everytoken.errors import UserError
from everytoken.hf.config import read_config, resolve
from everytoken.hf.llama import llama_config, llama_from_hf, to_llama
from everytoken.model.transformer import Transformer
from support.helpers import VOCABULARY, make_batch, make_model

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 77.0},
}


def save(folder: Path, *, kind: str = "Llama", shards: str = "50GB", **more: Any) -> Any:
    """A random network with weights large enough to matter, and its files."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **more})
    network = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(std=0.3) if weight.ndim == 2 else weight.uniform_(0.5, 1.5)
    network.save_pretrained(folder, max_shard_size=shards)
    return network


def load(folder: Path, **changed: Any) -> Transformer:
    settings: dict[str, Any] = {
        "shape": "decoder",
        "vocabulary": VOCABULARY,
        "path": str(folder),
        "config": changed.get("config") or read_config(str(folder)),
        "pretrained": True,
        "dropout": 0.0,
        "token_dropout": 0.0,
        "attention": "auto",
    }
    return llama_from_hf(**{**settings, **changed}).eval()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 4, "shards": "4KB"},
        {"kind": "Mistral", "sliding_window": 3},
        {"kind": "Mistral", "sliding_window": None},
    ],
    ids=["llama", "tied", "sharded", "window", "mistral"],
)
def test_logits_are_those_of_transformers(tmp_path: Path, more: dict[str, Any]) -> None:
    network = save(tmp_path, **more)
    assert (tmp_path / "model.safetensors.index.json").exists() == ("shards" in more)
    model = load(tmp_path)
    batch = make_batch([9, 3, 6])
    mask = batch.is_real.long()
    right = network(input_ids=batch.input_ids, attention_mask=mask).logits[batch.is_target]
    torch.testing.assert_close(model.head(model(batch)), right, rtol=1e-5, atol=1e-5)


def test_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    for window in (None, 2):
        model = make_model("decoder", window=window)
        folder = tmp_path / str(window)
        llama_config(model).save_pretrained(folder)
        save_file(to_llama(model), folder / "model.safetensors")
        again = load(folder).state_dict()
        assert again.keys() == model.state_dict().keys()
        assert all(torch.equal(again[name], weight) for name, weight in model.state_dict().items())
        assert load(folder).decoder.visibility.window == window  # pyright: ignore[reportOptionalMemberAccess]


def test_without_pretrained_only_the_sizes_are_read(tmp_path: Path) -> None:
    network = save(tmp_path)
    config = read_config(str(tmp_path))
    model = load(Path("/nowhere"), config=config, pretrained=False)
    names = to_llama(model)
    theirs = network.state_dict()
    assert {n: w.shape for n, w in names.items()} == {n: w.shape for n, w in theirs.items()}
    assert not torch.equal(model.embedding.weight, theirs["model.embed_tokens.weight"])


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"attention_bias": True}, ["attention_bias=True"]),
        ({"mlp_bias": True}, ["mlp_bias=True"]),
        ({"hidden_act": "gelu"}, ["hidden_act=gelu", "silu"]),
        ({"head_dim": 8}, ["head_dim=8", "4"]),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 77.0, "factor": 2.0}},
            ["rope_type=linear"],
        ),
        ({"kind": "Qwen2"}, ["qwen2", "model=hf"]),
    ],
)
def test_what_the_decoder_cannot_do_is_refused(
    tmp_path: Path, more: dict[str, Any], words: list[str]
) -> None:
    save(tmp_path, **more)
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.bad_input
def test_more_tokens_than_the_model_knows_are_refused_and_fewer_are_not(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(UserError, match=rf"{VOCABULARY} .*{VOCABULARY + 1}.*tokenizer=pretrained"):
        load(tmp_path, vocabulary=VOCABULARY + 1)
    # Vocabularies are padded in many published models.
    assert load(tmp_path, vocabulary=VOCABULARY - 1).embedding.num_embeddings == VOCABULARY


@pytest.mark.parametrize("tied", [True, False])
def test_special_tokens_that_a_model_lacks_get_rows(tmp_path: Path, tied: bool) -> None:
    network = save(tmp_path, tie_word_embeddings=tied)
    model = load(tmp_path, vocabulary=VOCABULARY + 2, new_tokens=2)
    assert model.new_tokens == 2
    batch = make_batch([5, 3])
    with torch.no_grad():
        logits = model.head(model(batch))
        right = network(batch.input_ids, attention_mask=batch.is_real.long()).logits
    torch.testing.assert_close(logits[:, :VOCABULARY], right[batch.is_target], rtol=1e-5, atol=1e-5)
    assert logits.shape[1] == VOCABULARY + 2
    with pytest.raises(UserError, match="tokenizer=pretrained"):
        load(tmp_path, vocabulary=VOCABULARY + 2, new_tokens=1)


@pytest.mark.bad_input
def test_only_a_decoder_comes_from_llama(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(UserError, match="task=causal_lm"):
        load(tmp_path, shape="encoder")


@pytest.mark.bad_input
def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    network = save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"safetensors, only pytorch_model\.bin"):
        load(tmp_path)


@pytest.mark.bad_input
def test_weights_that_contradict_the_config_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    left_out = {n: w for n, w in weights.items() if n != "model.norm.weight"}
    wide = {**weights, "model.norm.weight": torch.ones(17)}
    foreign = {**weights, "model.layers.0.self_attn.q_proj.bias": torch.ones(16)}
    for changed, word in ((left_out, "model.norm"), (wide, "17"), (foreign, "q_proj.bias")):
        save_file(changed, file)
        with pytest.raises(UserError, match=word):
            load(tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="can't read the weights"):
        load(tmp_path)


@pytest.mark.bad_input
def test_a_folder_without_a_config_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json in"):
        read_config(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="can't use the model"):
        read_config(str(tmp_path))


def test_a_value_of_a_config_can_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64}))
    assert resolve(str(tmp_path), "hidden_size") == 64
    assert resolve(str(tmp_path), "decoder_start_token_id") is None
    assert resolve(None) is None
