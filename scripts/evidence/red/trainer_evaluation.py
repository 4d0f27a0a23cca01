# type: ignore
"""Trainer, Llama: the loss of an evaluation over three examples, in one batch, and in two."""

# ruff: noqa
# fmt: off
import tempfile, torch, transformers as hf
from torch.nn.utils.rnn import pad_sequence as pad
rows = [{"input_ids": torch.arange(4, 4 + n), "labels": torch.arange(4, 4 + n)} for n in (3, 9, 30)]
collate = lambda some: {k: pad([r[k] for r in some], True, v) for k, v in (("input_ids", 0), ("labels", -100))}
hf.set_seed(0)
model = hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2))
for size in (3, 2):
    args = hf.TrainingArguments(tempfile.mkdtemp(), per_device_eval_batch_size=size, use_cpu=True, report_to="none", disable_tqdm=True)
    print(f"batches of {size}: evaluation loss", hf.Trainer(model, args, collate, eval_dataset=rows).evaluate()["eval_loss"])
