"""How many entities in tagged words are found, as conlleval and seqeval count them.

An entity is right if it begins, ends and is called as it should.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from everytoken.corpora.schemes import OUTSIDE, Entity, entities, parsed
from everytoken.runtime.console import warn
from everytoken.training.sequence_metric import SequenceMetric


class Entities(SequenceMetric):
    """Precision, recall and F1 of entities, of all together and of each kind, 0 to 1.

    What is added over batches and ranks are numbers of entities: found rightly, found, and to be
    found. Values are NaN of a kind that neither the predictions nor the references have. Tags
    without a scheme (parts of speech, say) make no entities, and then there are no values.

    Args:
        labels: the tags by class.
    """

    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__()
        self.labels = list(labels)
        self.kinds = sorted({tag[1] for label in labels if (tag := parsed(label))})
        odd = [name for name in labels if name != OUTSIDE and not parsed(name)]
        if odd and self.kinds:
            warn(
                f"entities aren't counted: {', '.join(odd[:5])} among the tags begins or continues "
                "none, as B-X and I-X do"
            )
        if odd:
            self.kinds = []
        zeros = torch.zeros(len(self.kinds), 3, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")
        suffixes = ["", *(f"/{kind}" for kind in self.kinds)] if self.kinds else []
        self.names = [f"{name}{s}" for s in suffixes for name in ("f1", "precision", "recall")]

    def update(self, predictions: list[list[int]], targets: list[list[int]]) -> None:
        """Count sequences."""
        rows = {kind: i for i, kind in enumerate(self.kinds)}
        counts = [[0, 0, 0] for _ in self.kinds]
        for predicted, expected in zip(predictions, targets, strict=True):
            found, wanted = (
                {*entities([self.labels[id_] for id_ in row])} if self.kinds else set[Entity]()
                for row in (predicted, expected)
            )
            for column, some in enumerate((found & wanted, found, wanted)):
                for entity in some:
                    counts[rows[entity.kind]][column] += 1
        if self.kinds:
            self.counts += torch.tensor(counts, device=self.device)

    def compute(self) -> dict[str, Tensor]:
        """The values by name, () float64."""
        values: list[Tensor] = []
        counts = self.counts.double()
        for right, found, wanted in (counts.sum(0), *counts) if self.kinds else ():
            f1 = 2 * right / (found + wanted)  # NaN if there are none
            for share in (f1, right / found, right / wanted):
                values.append(f1 if f1.isnan() else share.nan_to_num())
        return dict(zip(self.names, values, strict=True))
