"""Similarities to the top k, ties broken by candidate id.

Shapes: Q queries, C candidates, D dimensions, K chosen.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def cosine_similarity(
    query_emb_QD: NDArray[np.float32], candidate_emb_CD: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Cosines [Q, C]; a zero vector is similar to nothing (0)."""
    product: NDArray[np.float32] = _to_unit(query_emb_QD) @ _to_unit(candidate_emb_CD).T
    return product


def top_k(
    similarity_QC: NDArray[np.float32],
    candidate_ids: Sequence[str],
    k: int,
    excluded_QC: NDArray[np.bool_] | None = None,
) -> list[list[int]]:
    """For each query the columns of its at most ``k`` most similar candidates, best first.

    Equal similarities are ordered by candidate id, so the result depends on neither row order nor
    machine. Similarities are compared after rounding to 1e-6: float noise must not order ties.
    Columns marked in ``excluded_QC`` are never chosen.

    Raises:
        ValueError: ``k`` < 1, columns and ids disagree in number, or a similarity is not a number.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if similarity_QC.shape[1] != len(candidate_ids):
        raise ValueError(f"{similarity_QC.shape[1]} columns but {len(candidate_ids)} candidate ids")
    if np.isnan(similarity_QC).any():
        raise ValueError("a similarity is not a number; the encoder gave a vector that is not finite")
    by_id_C = np.argsort(np.asarray(candidate_ids), kind="stable")
    chosen = []
    for row, similarity_C in enumerate(similarity_QC):
        rounded_C = np.round(similarity_C[by_id_C].astype(np.float64), 6)
        if excluded_QC is not None:
            rounded_C[excluded_QC[row, by_id_C]] = -np.inf
        order_K = _best_in_order(rounded_C, k)
        chosen.append([int(by_id_C[i]) for i in order_K if np.isfinite(rounded_C[i])])
    return chosen


def _best_in_order(value_C: NDArray[np.float64], k: int) -> NDArray[np.intp]:
    """Positions of the ``k`` largest values, largest first, equal ones by position."""
    if k < len(value_C):
        threshold = np.partition(value_C, len(value_C) - k)[len(value_C) - k]
        kept = np.flatnonzero(value_C >= threshold)
    else:
        kept = np.arange(len(value_C))
    order: NDArray[np.intp] = kept[np.argsort(-value_C[kept], kind="stable")][:k]
    return order


def _to_unit(emb_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    norm_N1 = np.linalg.norm(emb_ND, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (emb_ND / np.where(norm_N1 > 0, norm_N1, 1.0)).astype(np.float32)
    return unit
