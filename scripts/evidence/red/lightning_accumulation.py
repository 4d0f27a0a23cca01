# type: ignore
"""Lightning: two examples as one batch, and as two micro-batches of one step."""

# ruff: noqa
# fmt: off
import lightning as L, torch
class Words(L.LightningModule):
    def __init__(self): super().__init__(); torch.manual_seed(0); self.net = torch.nn.Linear(4, 9)
    def training_step(self, batch, i): return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    def on_before_optimizer_step(self, optimizer): print("norm of the gradient", self.net.weight.grad.norm().item())
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 0.1)
x, y = torch.eye(4).repeat(8, 1), torch.arange(32) % 9
for batches in ([(x, y)], [(x[:2], y[:2]), (x[2:], y[2:])]):
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    L.Trainer(accelerator="cpu", max_steps=1, accumulate_grad_batches=len(batches), logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False).fit(Words(), loader)
