# type: ignore
"""Lightning: one step over two examples; the same with torchrun --nproc_per_node 2."""

# ruff: noqa
# fmt: off
import os, lightning as L, torch
class Words(L.LightningModule):
    def __init__(self): super().__init__(); torch.manual_seed(0); self.net = torch.nn.Linear(4, 9)
    def training_step(self, batch, i): return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    def on_before_optimizer_step(self, optimizer): print("norm of the gradient", self.net.weight.grad.norm().item(), flush=True)
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 0.1)
x, y = torch.eye(4).repeat(8, 1), torch.arange(32) % 9
ranks = int(os.environ.get("WORLD_SIZE", 1))
batches = [(x, y)] if ranks == 1 else [(x[:2], y[:2]), (x[2:], y[2:])]
loader = torch.utils.data.DataLoader(batches, batch_size=None)
L.Trainer(accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False).fit(Words(), loader)
