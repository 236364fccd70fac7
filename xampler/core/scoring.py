"""Label log-likelihoods to training signal and prediction.

Shapes: P prompts, L labels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScoredPrompts:
    """What the language model said about P prompts."""

    predicted_P: NDArray[np.intp]
    gold_log_prob_P: NDArray[np.float64]  # nats, normalised over the labels


def log_probs(log_likelihood_PL: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-likelihoods normalised over the labels, in nats."""
    top_P1 = log_likelihood_PL.max(axis=1, keepdims=True)
    total_P1 = np.log(np.exp(log_likelihood_PL - top_P1).sum(axis=1, keepdims=True))
    result: NDArray[np.float64] = log_likelihood_PL - top_P1 - total_P1
    return result


def score_prompts(log_likelihood_PL: NDArray[np.float64], gold_P: NDArray[np.intp]) -> ScoredPrompts:
    """Predict the likeliest label (the first of equals) and keep the gold one's log-probability.

    Args:
        log_likelihood_PL: nats, finite.
        gold_P: index of the gold label, in ``[0, L)``.

    Raises:
        ValueError: the two disagree on P, or a log-likelihood is not finite.
    """
    if len(log_likelihood_PL) != len(gold_P):
        raise ValueError(f"{len(log_likelihood_PL)} prompts but {len(gold_P)} gold labels")
    if not np.isfinite(log_likelihood_PL).all():
        raise ValueError("a log-likelihood is not finite")
    rows_P = np.arange(len(gold_P))
    return ScoredPrompts(log_likelihood_PL.argmax(axis=1), log_probs(log_likelihood_PL)[rows_P, gold_P])
