# type: ignore
"""Trainer, GPT-2: the logged loss of a step, and the cross-entropy of its targets."""

# ruff: noqa
# fmt: off
import tempfile, torch, transformers as hf
hf.set_seed(0)
model = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=40, n_positions=16, n_embd=32, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
ids = torch.arange(4, 12)
logits = model(ids[None]).logits[0]
print("mean cross-entropy", torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).item())
args = hf.TrainingArguments(tempfile.mkdtemp(), max_steps=1, use_cpu=True, logging_steps=1, report_to="none", disable_tqdm=True)
trainer = hf.Trainer(model, args, train_dataset=[{"input_ids": ids, "labels": ids}] * 8); trainer.train()
print("loss that is logged", trainer.state.log_history[0]["loss"])
