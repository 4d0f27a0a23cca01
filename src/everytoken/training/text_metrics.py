"""Exact metrics of generated texts: n-grams are counted, added over ranks, divided once."""

from abc import abstractmethod

import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from torch import Tensor
from torchmetrics import Metric

from everytoken.training.sacrebleu_internals import ngram_counts, score_of


class TextMetric(Metric):
    """A metric of generated texts; all others are metrics of target tokens."""

    @abstractmethod
    def update(self, predictions: list[str], references: list[str]) -> None:
        """Count generated texts and what they should be, one reference each."""


class Bleu(TextMetric):
    """Corpus BLEU (Papineni et al. 2002), 0 to 100, by sacrebleu (Post 2018).

    What is added over batches and ranks are n-gram counts and lengths, so it is sacrebleu's score
    of all texts together.

    Args:
        tokenize: sacrebleu's name of how texts become words: "13a", "none", "char", "zh", …
        lowercase: True to ignore case.
    """

    higher_is_better = True
    full_state_update = False
    correct: Tensor
    total: Tensor
    lengths: Tensor

    def __init__(self, tokenize: str = "13a", lowercase: bool = False) -> None:
        super().__init__()
        # `force` as to warnings of tokenized text, which each evaluation would repeat.
        self.bleu = BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
        for name, size in (("correct", 4), ("total", 4), ("lengths", 2)):
            zeros = torch.zeros(size, dtype=torch.int64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, predictions: list[str], references: list[str]) -> None:
        """Count texts."""
        if predictions:
            score = self.bleu.corpus_score(predictions, [references])
            self.correct += torch.tensor(score.counts, device=self.device)
            self.total += torch.tensor(score.totals, device=self.device)
            self.lengths += torch.tensor([score.sys_len, score.ref_len], device=self.device)

    def compute(self) -> Tensor:
        """() float64; NaN if nothing was counted."""
        if not self.lengths.any():
            return torch.tensor(float("nan"), dtype=torch.float64)
        hypothesis_length, reference_length = self.lengths.tolist()
        score = BLEU.compute_bleu(
            self.correct.tolist(),
            self.total.tolist(),
            hypothesis_length,
            reference_length,
            smooth_method=self.bleu.smooth_method,
            smooth_value=self.bleu.smooth_value,
        )
        return torch.tensor(score.score, dtype=torch.float64, device=self.device)


class Chrf(TextMetric):
    """Corpus chrF (Popović 2015), 0 to 100, by sacrebleu (Post 2018).

    What is added over batches and ranks are counts of n-grams, so it is sacrebleu's score of all
    texts together.

    Args:
        word_order: longest n-grams of words, beside those of up to 6 characters: 0 is chrF, 2 is
            chrF++ (Popović 2017).
        lowercase: True to ignore case.
    """

    higher_is_better = True
    full_state_update = False
    counts: Tensor
    texts: Tensor

    def __init__(self, word_order: int, lowercase: bool) -> None:
        super().__init__()
        self.chrf = CHRF(word_order=word_order, lowercase=lowercase)
        zeros = torch.zeros(3 * self.chrf.order, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")
        self.add_state("texts", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: list[str], references: list[str]) -> None:
        """Count texts."""
        if predictions:
            rows = ngram_counts(self.chrf, predictions, references)
            self.counts += torch.tensor(rows, device=self.device).sum(0)
            self.texts += len(predictions)

    def compute(self) -> Tensor:
        """() float64; NaN if nothing was counted."""
        if not self.texts:
            return torch.tensor(float("nan"), dtype=torch.float64)
        score = score_of(self.chrf, self.counts.tolist())
        return torch.tensor(score, dtype=torch.float64, device=self.device)
