"""A callback of one's own: how large the weights are, layer by layer."""

import lightning as L
from torch import nn
from torch.distributed.tensor import DTensor


class WeightNorms(L.Callback):
    """Logs `weights/LAYER` at each validation: the norm of the weights of each part of the model.

    A part that stands still isn't learning; one that grows and grows wants more weight decay or a
    lower learning rate.
    """

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log on all ranks, for where weights are sharded each has only a part of them."""
        model = pl_module.model
        assert isinstance(model, nn.Module)
        for name, part in model.named_children():
            if weights := list(part.parameters()):
                norm = nn.utils.get_total_norm(weights)
                whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
                pl_module.log(f"weights/{name}", whole.detach())
