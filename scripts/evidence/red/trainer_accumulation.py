# type: ignore
"""Trainer, T5: two examples as one batch, and as two micro-batches of one step."""

# ruff: noqa
# fmt: off
import tempfile, torch, transformers as hf
from torch.nn.utils.rnn import pad_sequence as pad
rows = [{"input_ids": torch.tensor([5, 6]), "labels": torch.arange(4, 4 + n)} for n in (2, 30)]
collate = lambda some: {k: pad([r[k] for r in some], True, -100) for k in some[0]}
for size, steps in ((2, 1), (1, 2)):
    hf.set_seed(0)
    config = hf.T5Config(vocab_size=40, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, dropout_rate=0, decoder_start_token_id=0)
    args = hf.TrainingArguments(tempfile.mkdtemp(), max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=steps, use_cpu=True, logging_steps=1, report_to="none", disable_tqdm=True)
    trainer = hf.Trainer(hf.T5ForConditionalGeneration(config), args, collate, rows); trainer.train()
    print(f"{size} x {steps}: loss and norm of the gradient", trainer.state.log_history[0]["loss"], trainer.state.log_history[0]["grad_norm"])
