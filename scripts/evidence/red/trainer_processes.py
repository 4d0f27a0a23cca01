# type: ignore
"""Trainer, T5: the loss of an evaluation; the same with torchrun --nproc_per_node 2."""

# ruff: noqa
# fmt: off
import tempfile, torch, transformers as hf
rows = [{"input_ids": torch.tensor([5, 6]), "labels": torch.arange(4, 12)} for _ in range(4)]
hf.set_seed(0)
config = hf.T5Config(vocab_size=40, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, dropout_rate=0, decoder_start_token_id=0)
args = hf.TrainingArguments(tempfile.mkdtemp(), per_device_eval_batch_size=1, use_cpu=True, report_to="none", disable_tqdm=True)
trainer = hf.Trainer(hf.T5ForConditionalGeneration(config), args, eval_dataset=rows)
print(f"{args.world_size} processes: evaluation loss", trainer.evaluate()["eval_loss"])
