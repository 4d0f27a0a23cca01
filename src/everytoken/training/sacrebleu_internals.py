"""All that metrics use of sacrebleu which it doesn't document: it has no public counts of chrF.

Checked with sacrebleu 2.6. tests/training/test_upstream.py says what another version has changed.
"""

from collections.abc import Sequence

from sacrebleu.metrics.chrf import CHRF


def ngram_counts(
    chrf: CHRF, predictions: Sequence[str], references: Sequence[str]
) -> list[list[int]]:
    """For each text, n-grams of prediction, of reference and of both, by n: 3 · order numbers.

    `CHRF._extract_corpus_statistics`, which needs at least one text.
    """
    return chrf._extract_corpus_statistics(predictions, [references])


def score_of(chrf: CHRF, counts: list[int]) -> float:
    """chrF, 0 to 100, of such counts, summed over texts: `CHRF._compute_score_from_stats`."""
    return chrf._compute_score_from_stats(counts).score
