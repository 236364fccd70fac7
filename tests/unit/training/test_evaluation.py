import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers.base.model import BaseModel

from xampler.core.pairing import NEGATIVE
from xampler.training.evaluation import HeldOutEvaluator, has_parallels, parallel_share
from xampler.training.shards import Candidate, JudgedQuery


class ByAngle:
    """Gives each text, a number, the unit vector at that angle in degrees."""

    def encode(
        self, texts: Sequence[str], normalize_embeddings: bool, show_progress_bar: bool
    ) -> NDArray[np.float32]:
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


MODEL = cast(BaseModel, ByAngle())


def candidate(angle: int, probability: float) -> Candidate:
    return Candidate(str(angle), str(angle), gold_log_prob=math.log(probability))


def negative(angle: int, probability: float) -> Candidate:
    return Candidate(str(angle), str(angle), NEGATIVE, same_label=False, gold_log_prob=math.log(probability))


def evaluate(*queries: JudgedQuery) -> dict[str, float]:
    return HeldOutEvaluator(queries, {}, "eng_Latn")(MODEL)


def test_figures_of_one_query_by_hand() -> None:
    # By distance from 0 degrees: positive (10), negative (20), positive (30), negative (90).
    found = evaluate(
        JudgedQuery(
            "q", "0", [candidate(10, 0.9), candidate(30, 0.8)], [negative(20, 0.1), negative(90, 0.2)]
        )
    )
    assert found["held_out_map"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found["held_out_recall_at_1"] == 1.0  # the one nearest is a positive
    assert found["held_out_recall_at_5"] == 1.0
    cosines = {angle: math.cos(math.radians(angle)) for angle in (10, 20, 30, 90)}
    assert found["held_out_margin"] == pytest.approx(
        (cosines[10] + cosines[30] - cosines[20] - cosines[90]) / 2, abs=1e-6
    )
    gain = [0.9, 0.1, 0.8, 0.2]
    best = sorted(gain, reverse=True)
    discounted = [sum(g / math.log2(i + 2) for i, g in enumerate(order)) for order in (gain, best)]
    assert found["held_out_ndcg"] == pytest.approx(discounted[0] / discounted[1])


def test_recall_looks_among_the_candidates_of_all_queries() -> None:
    first = JudgedQuery("a", "0", [candidate(10, 0.9)], [negative(170, 0.1)])
    crowd = JudgedQuery(
        "b", "180", [candidate(angle, 0.9) for angle in (1, 2, 3, 4, 5)], [negative(179, 0.1)]
    )
    assert evaluate(first)["held_out_recall_at_1"] == 1.0
    both = evaluate(first, crowd)
    # The first finds 1 to 5 degrees; the second 179, 170, 10 and two of its five positives.
    assert both["held_out_recall_at_5"] == pytest.approx((0 + 2 / 5) / 2)
    assert both["held_out_map"] == pytest.approx((1.0 + evaluate(crowd)["held_out_map"]) / 2)


def test_queries_of_one_role_are_left_out() -> None:
    evaluator = HeldOutEvaluator([JudgedQuery("q", "0", [candidate(10, 0.9)])], {}, "eng_Latn")
    assert not evaluator
    assert evaluator(MODEL) == {}


PARALLELS = {
    "eng_Latn": {"x": "0", "y": "90", "z": "180"},
    "swh_Latn": {"x": "10", "y": "80", "z": "100"},  # z lies nearer to y
    "hin_Deva": {"y": "91", "z": "181", "only here": "5"},
}


def test_parallel_share_is_the_mean_over_languages() -> None:
    assert parallel_share(MODEL, PARALLELS, "eng_Latn") == pytest.approx((2 / 3 + 1) / 2)
    evaluator = HeldOutEvaluator([], PARALLELS, "eng_Latn")
    assert evaluator
    assert evaluator(MODEL) == {"parallel": pytest.approx((2 / 3 + 1) / 2)}


@pytest.mark.parametrize(
    "parallels",
    [
        {},
        {"eng_Latn": {"x": "0"}},
        {"swh_Latn": {"x": "0"}},
        {"eng_Latn": {"x": "0"}, "swh_Latn": {"y": "1"}},
    ],
)
def test_nothing_is_parallel(parallels: dict[str, dict[str, str]]) -> None:
    assert not has_parallels(parallels, "eng_Latn")
