"""Models of transformers, and adapters, built without memory: filled, they are the usual ones.

Their weights are read from a file in another type, drawn, tied and replaced as transformers likes.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everytoken.hf.adapter import lora
from everytoken.hf.config import read_config
from everytoken.hf.model import HuggingFace
from everytoken.training import deferred
from everytoken.training.adapted import Base
from everytoken.training.deferred import Deferred, built

transformers = pytest.importorskip("transformers")

SIZES = {
    **{"vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "d_model": 16},
    **{"max_position_embeddings": 32, "pad_token_id": 0, "d_kv": 8, "d_ff": 24, "num_layers": 2},
}
CLASSES: dict[str, Any] = {"classes": 3, "per_sequence": True}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Llama": ("decoder", "LlamaForCausalLM", {}),
    "Gemma2": ("decoder", "Gemma2ForCausalLM", {}),
    "GPT2": ("decoder", "GPT2LMHeadModel", {}),
    "Bert": ("encoder", "BertForMaskedLM", {}),
    "ModernBert": ("encoder", "ModernBertForMaskedLM", CLASSES),
    "T5": ("encoder_decoder", "T5ForConditionalGeneration", {}),
    "Marian": ("encoder_decoder", "MarianMTModel", {}),
}


@pytest.fixture(autouse=True)
def small_weights_wait_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(deferred, "LARGE", 1)


def stored(family: str, folder: Path, dtype: torch.dtype) -> str:
    torch.manual_seed(2)
    sizes = SIZES | ({"is_decoder": False} if family == "Bert" else {})
    if family == "Marian":
        sizes |= {"vocab_size": 23, "decoder_start_token_id": 0, "encoder_layers": 1}
    config = getattr(transformers, f"{family}Config")(**sizes)
    getattr(transformers, FAMILIES[family][1])(config).to(dtype).save_pretrained(folder)
    return str(folder)


def model(family: str, place: str, *, pretrained: bool, new: int = 0) -> HuggingFace:
    shape: Any = FAMILIES[family][0]
    more = {} if new else FAMILIES[family][2]
    return HuggingFace(
        **{"shape": shape, "vocabulary": 23 + new, "new_tokens": new, "name_or_path": place},
        config=read_config(place),
        pretrained=pretrained,
        **more,
    )


def values(part: nn.Module) -> dict[str, Tensor]:
    return dict(part.named_parameters(remove_duplicate=False)) | dict(part.named_buffers())


def same(one: nn.Module, other: nn.Module) -> None:
    found, right = values(one), values(other)
    assert found.keys() == right.keys()
    for name, tensor in right.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
        assert found[name].requires_grad == tensor.requires_grad, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, None])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_a_file_or_drawn_ones_come_when_they_are_asked_for(
    family: str, dtype: torch.dtype | None, tmp_path: Path
):
    place = stored(family, tmp_path, dtype or torch.float32)
    torch.manual_seed(1)
    right = model(family, place, pretrained=dtype is not None)
    after = torch.rand(3)
    torch.manual_seed(1)
    found, waits = built(lambda: model(family, place, pretrained=dtype is not None))
    assert torch.equal(torch.rand(3), after)  # what is drawn next doesn't depend on it
    if dtype != torch.float32:  # those are read where they lie
        weights = [w for w in found.parameters() if w.ndim == 2 and "class" not in str(w)]
        assert sum(w.untyped_storage().device.type == "meta" for w in weights) >= len(weights) - 2
    for part in found.modules():
        waits.fill(part, found)
    same(found, right)


@pytest.mark.parametrize("family", ["Llama", "T5"])
def test_rows_of_new_tokens_and_an_adapter_wait_too(family: str, tmp_path: Path):
    place = stored(family, tmp_path, torch.bfloat16)

    def adapted(one: nn.Module) -> None:
        lora(one, rank=2, alpha=4, dropout=0.1)

    torch.manual_seed(1)
    right = model(family, place, pretrained=True, new=4)
    base = Base.of(place, right, lambda weight: weight, but=())
    adapted(right)
    torch.manual_seed(1)
    found, waits = built(lambda: model(family, place, pretrained=True, new=4))
    assert isinstance(waits, Deferred)
    assert Base.of(place, found, waits.value, but=()) == base
    with waits.building():
        adapted(found)
    waits.fill(found, found)
    same(found, right)
