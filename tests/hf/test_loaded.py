"""What doesn't compute what the run does, when it is loaded elsewhere, doesn't go out."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from everytoken.batch import Batch
from everytoken.commands.export import export
from everytoken.errors import UserError
from everytoken.hf.model import HuggingFace
from everytoken.model.transformer import Transformer
from everytoken.tokenizer.learned import train_byte
from support.finished_runs import make_run

LM = ["logger=none", "task=causal_lm", "data=pydoc"]
SMALL = ["model.layers=1", "model.width=32", "model.ffn_width=48", "task.max_new_tokens=null"]


class Adapted(nn.Module):
    """A linear layer and a product of two narrow ones beside it, as peft has it."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.Linear(base_layer.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, base_layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


class WithAdapters(HuggingFace):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        attention: Any = self.network.get_submodule("model.layers.0.self_attn")
        attention.q_proj = Adapted(attention.q_proj)


class Louder(HuggingFace):
    gain = 1.0

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.gain = 1.5

    def forward(self, batch: Batch) -> Tensor:
        return self.gain * super().forward(batch)


class WithLayer(Transformer):
    """A layer that the model of the package lacks."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.more = nn.Linear(32, 32)

    def forward(self, batch: Batch) -> Tensor:
        return self.more(super().forward(batch))


class Scaled(Transformer):
    """The same weights, computed with in another way."""

    def forward(self, batch: Batch) -> Tensor:
        hidden = super().forward(batch)
        return hidden * torch.linspace(0.5, 2, hidden.shape[1])


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("model", "words", "told"),
    [
        (WithAdapters, LM, r"q_proj.*merge_and_unload"),
        (Louder, LM, r"other logits than the run"),
        (WithLayer, LM, r"WithLayer has more\.bias, which Transformer has not"),
        (WithLayer, ["logger=none"], r"WithLayer has more\.bias"),
        (Scaled, LM, r"other logits than the run"),
        (Scaled, ["logger=none"], r"other logits than the run"),
    ],
)
def test_a_model_that_would_come_back_as_another_is_refused(
    model: type[nn.Module],
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
    )
    if issubclass(model, HuggingFace):
        config.save_pretrained(tmp_path / "source")
        words = [*words, "model=hf", "model.pretrained=false", "task.max_new_tokens=null"]
        words += [f"model.name_or_path={tmp_path / 'source'}"]
        monkeypatch.setattr("everytoken.hf.model.HuggingFace", model)
        monkeypatch.setattr("everytoken.hf.HuggingFace", model)
    else:
        words = [*words, *SMALL]
        monkeypatch.setattr("everytoken.model.transformer.Transformer", model)
        monkeypatch.setattr("everytoken.model.Transformer", model)
    run, _, _ = make_run(tmp_path / "run", words, train_byte([]))
    with pytest.raises(UserError, match=told):
        export(run.path, tmp_path / "out", "best", [f"{model.__module__}.{model.__name__}"])
    assert not (tmp_path / "out").exists()
