"""Parameter groups of one's own: what the optimizer treats alike."""

from typing import Any

from torch import nn


def matrices_but_embeddings(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay for matrices; none for embeddings, norms and biases.

    An embedding's row has a gradient only when its token occurs, but decay shrinks it in every
    step: rare tokens would fade.
    """
    embeddings = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    looked_up = {id(weight) for weight in embeddings}
    trained = [p for p in model.parameters() if p.requires_grad]
    decays = {id(p) for p in trained if p.ndim >= 2} - looked_up
    return [
        {"params": [p for p in trained if id(p) in decays]},
        {"params": [p for p in trained if id(p) not in decays], "weight_decay": 0.0},
    ]
