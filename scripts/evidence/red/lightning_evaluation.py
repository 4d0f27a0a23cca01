# type: ignore
"""Lightning: the loss of an evaluation over three texts, in one batch, and in two."""

# ruff: noqa
# fmt: off
import lightning as L, torch
from torch.nn.utils.rnn import pad_sequence as pad
class Words(L.LightningModule):
    def __init__(self): super().__init__(); torch.manual_seed(0); self.net = torch.nn.Embedding(40, 40)
    def validation_step(self, y, i): self.log("loss", torch.nn.functional.cross_entropy(self.net(y.clamp(0)).mT, y))
rows = [torch.arange(4, 4 + n) for n in (3, 9, 30)]
for size in (3, 2):
    loader = torch.utils.data.DataLoader(rows, size, collate_fn=lambda some: pad(some, True, -100))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    print(f"batches of {size}: evaluation loss", trainer.validate(Words(), loader, verbose=False)[0]["loss"])
