"""The output layer: hidden states (M, D) → logits of tokens (M, V), or of classes (M, C)."""

from torch import nn


def output_layer(width: int, vocabulary: int, classes: int | None, per_sequence: bool) -> nn.Module:
    """The layer that predicts.

    Args:
        width: D.
        vocabulary: V.
        classes: C; None for tokens.
        per_sequence: True if each sequence is of a class, False if each token is. A sequence's one
            hidden state goes through a layer more, as in EuroBERT (Boizard et al. 2025).
    """
    if classes is None:
        return nn.Linear(width, vocabulary, bias=False)
    last = nn.Linear(width, classes)
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), last) if per_sequence else last
