"""Overrides of a whole run that takes seconds."""

SMALL = [
    "logger=none",
    "model.width=32",
    "model.ffn_width=48",
    "data.corpus.train_examples=300",
    "data.corpus.val_examples=21",
    "data.corpus.test_examples=23",
    "data.batch_size=16",
    "task.max_new_tokens=12",
    "trainer.max_steps=6",
    "trainer.val_check_interval=3",
    "trainer.log_every_n_steps=1",
]
