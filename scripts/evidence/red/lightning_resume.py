# type: ignore
"""Lightning: the examples of an epoch of four, and of one that was broken off after two."""

# ruff: noqa
# fmt: off
import tempfile, lightning as L, torch
class Words(L.LightningModule):
    def __init__(self): super().__init__(); self.net = torch.nn.Linear(1, 1); self.seen = []
    def training_step(self, batch, i): self.seen.append(int(batch)); return self.net(batch[:, None].float()).sum()
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 0.0)
def fit(steps, **more):
    trainer, model = L.Trainer(accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False), Words()
    trainer.fit(model, torch.utils.data.DataLoader([1, 2, 3, 4]), **more); return trainer, model.seen
print("unbroken", sum(fit(4)[1][2:]))
file = tempfile.mkdtemp() + "/half.ckpt"; trainer, _ = fit(2); trainer.save_checkpoint(file)
print("resumed", sum(fit(4, ckpt_path=file)[1]))
