# type: ignore
"""Trainer, Llama: the loss of a step over two texts, padded on the right, and on the left."""

# ruff: noqa
# fmt: off
import tempfile, torch, transformers as hf
from torch.nn.utils.rnn import pad_sequence as pad
rows = [torch.arange(4, 4 + n) for n in (3, 30)]
for side in ("right", "left"):
    collate = lambda some: {"input_ids": pad(some, True, 0, side), "attention_mask": pad([s > 0 for s in some], True, 0, side).long(), "labels": pad(some, True, -100, side)}
    hf.set_seed(0)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2))
    args = hf.TrainingArguments(tempfile.mkdtemp(), max_steps=1, remove_unused_columns=False, use_cpu=True, logging_steps=1, report_to="none", disable_tqdm=True)
    trainer = hf.Trainer(model, args, collate, rows); trainer.train()
    print(f"padding on the {side}: loss", trainer.state.log_history[0]["loss"])
