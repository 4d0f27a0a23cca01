"""FSDP builds models of transformers without memory, and trains them as one process does."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from everytoken.tokenizer.learned import train_byte
from support.helpers import run, run_here

pytestmark = pytest.mark.slow

WORDS = ["task=causal_lm", "data=pydoc", "tokenizer=pretrained", "tokenizer.path=base"]
WORDS += ["model=hf", "model.name_or_path=base", "optimizer.lr=1e-3", "trainer.max_steps=3"]
WORDS += ["data.batch_size=8", "data.batch_tokens=null", "data.limit_examples=40"]
WORDS += ["data.num_workers=0", "logger=none", "callbacks.report=null", "task.max_new_tokens=null"]


def weights(path: Path) -> dict[str, Tensor]:
    return torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("adapter", [[], ["adapter=lora", "adapter.rank=2"]], ids=["all", "lora"])
def test_two_ranks_train_weights_of_a_file_in_bfloat16_as_one_process_does(
    adapter: list[str], tmp_path: Path
):
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    network: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads))
    network.to(torch.bfloat16).save_pretrained(tmp_path / "base")
    train_byte([]).save(tmp_path / "base" / "tokenizer.json")
    words = [*WORDS, *adapter]
    alone = run_here(tmp_path, "train", *words, "trainer=cpu", "hydra.run.dir=one")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    several = ["trainer=fsdp_cpu", "trainer.devices=2", "hydra.run.dir=two"]
    done = run(tmp_path, "train", *words, *several)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "without memory" not in done.stdout
    right, found = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert right.keys() == found.keys()
    for name, weight in right.items():
        assert weight.dtype == found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-5)
