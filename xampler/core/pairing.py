"""Which (query, candidate) pairs to score, and what their judgements teach.

Shapes: Q queries, C candidates.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xampler.core.text import stable_fraction

POSITIVE, NEGATIVE = "positive", "negative"
TRAIN, HELD_OUT = "train", "held_out"
PROPOSED = "propose"  # proposer of the pairs that all recipes start from


def exclude_same_text(query_ids: Sequence[str], candidate_ids: Sequence[str]) -> NDArray[np.bool_]:
    """Mask [Q, C] of candidates that are the query itself or a duplicate of its text (equal id)."""
    mask: NDArray[np.bool_] = np.asarray(query_ids)[:, None] == np.asarray(candidate_ids)[None, :]
    return mask


def role_of(predicted: int, gold: int) -> str:
    """The paper's binary signal (section 3.1): a right prediction makes the pair positive."""
    return POSITIVE if predicted == gold else NEGATIVE


def split_of(query_id: str, held_out_share: float, seed: int) -> str:
    """Held out by query, never by pair: no query is both trained on and evaluated with."""
    drawn = stable_fraction("held_out", str(seed), query_id)
    return HELD_OUT if drawn < held_out_share else TRAIN


def random_demonstrations(
    query_id: str, candidate_ids: Sequence[str], n: int, seed: int, draw_key: str | None = None
) -> list[int]:
    """``n`` candidates other than the query, the same on every machine and in every row order.

    The draw depends on ``seed`` and ``draw_key`` (the query's id if None): queries with the same key,
    such as the translations of one text, are shown the same demonstrations.
    """
    others = [i for i, candidate_id in enumerate(candidate_ids) if candidate_id != query_id]
    order = sorted(others, key=lambda i: candidate_ids[i])
    rng = np.random.default_rng(int(stable_fraction(str(seed), draw_key or query_id) * 2**52))
    picked = rng.choice(len(order), size=min(n, len(order)), replace=False)
    return [order[i] for i in picked]
