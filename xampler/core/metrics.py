"""Accuracy, macro-F1 and intervals, per language and over groups of languages.

All shares are in [0, 1]. Shapes: N queries, G languages, B bootstrap samples, L labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval at :data:`CONFIDENCE`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """By how much one method is better than another on the same queries."""

    difference: Interval
    share_better: float  # of the languages


def macro_f1(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> float:
    """Mean F1 over the labels that occur as gold label or prediction (as scikit-learn's default)."""
    gold_N, predicted_N = np.asarray(gold), np.asarray(predicted)
    scores = []
    for label in labels:
        hits = int(((gold_N == label) & (predicted_N == label)).sum())
        total = int((gold_N == label).sum() + (predicted_N == label).sum())
        if total:
            scores.append(2 * hits / total)
    return float(np.mean(scores)) if scores else 0.0


def bootstrap_group_mean(values_GN: Sequence[NDArray[np.float64]], samples: int, seed: int) -> Interval:
    """Mean over G languages of their mean; languages and, within each, queries are resampled.

    One language has only its queries to resample.

    Raises:
        ValueError: there is no language, or one without values.
    """
    if not values_GN or any(len(value_N) == 0 for value_N in values_GN):
        raise ValueError("every group needs at least one language, every language at least one query")
    rng = np.random.default_rng(seed)
    means_GB = np.stack([_resampled_means(value_N, samples, rng) for value_N in values_GN])
    return group_interval([float(value_N.mean()) for value_N in values_GN], means_GB, rng)


def group_interval(
    value_G: Sequence[float], resampled_GB: NDArray[np.float64], rng: np.random.Generator
) -> Interval:
    """Mean over G languages; B samples of languages, from B resamples of each language's queries."""
    languages, samples = resampled_GB.shape
    picked_GB = rng.integers(languages, size=(languages, samples))
    # A language picked twice brings two resamples of its queries, not the same one twice.
    resample_GB = rng.integers(samples, size=picked_GB.shape)
    sample_B = resampled_GB[picked_GB, resample_GB].mean(axis=0)
    low, high = np.quantile(sample_B, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(np.mean(value_G)), float(low), float(high))


def resample_macro_f1(
    gold: Sequence[str],
    predicted: Sequence[str],
    labels: Sequence[str],
    samples: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Macro-F1 [B] of ``samples`` resamples of the queries, each as :func:`macro_f1`.

    Raises:
        ValueError: there are no queries.
    """
    if not len(gold):
        raise ValueError("there are no queries to resample")
    gold_NL = np.asarray(gold)[:, None] == np.asarray(labels)[None, :]
    predicted_NL = np.asarray(predicted)[:, None] == np.asarray(labels)[None, :]
    times_BN = rng.multinomial(len(gold), np.full(len(gold), 1 / len(gold)), size=samples).astype(np.float32)
    hits_BL = times_BN @ (gold_NL & predicted_NL).astype(np.float32)
    total_BL = times_BN @ (gold_NL.astype(np.float32) + predicted_NL)
    f1_BL = np.divide(2 * hits_BL, total_BL, out=np.zeros_like(hits_BL), where=total_BL > 0)
    mean_B: NDArray[np.float64] = f1_BL.sum(axis=1) / np.maximum((total_BL > 0).sum(axis=1), 1)
    return mean_B.astype(np.float64)


def paired_difference(
    better_GN: Sequence[NDArray[np.float64]], base_GN: Sequence[NDArray[np.float64]], samples: int, seed: int
) -> PairedDifference:
    """Paired bootstrap of two methods' per-query values; the same language and order in both.

    Raises:
        ValueError: the two differ in languages or queries.
    """
    if [len(value_N) for value_N in better_GN] != [len(value_N) for value_N in base_GN]:
        raise ValueError("both methods need the same queries in the same order")
    gains_GN = [better_N - base_N for better_N, base_N in zip(better_GN, base_GN, strict=True)]
    better = np.mean([gain_N.mean() > 0 for gain_N in gains_GN])
    return PairedDifference(bootstrap_group_mean(gains_GN, samples, seed), float(better))


def _resampled_means(
    value_N: NDArray[np.float64], samples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    picked_BN = rng.integers(len(value_N), size=(samples, len(value_N)), dtype=np.int32)
    means: NDArray[np.float64] = value_N[picked_BN].mean(axis=1)
    return means
