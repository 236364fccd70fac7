from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from xampler.core.ranking import cosine_similarity, top_k

# Few values, so that ties are many; two of them differ by less than the rounding.
SIMILARITIES = st.sampled_from([-0.5, 0.0, 0.25, 0.25 + 2e-7, 0.75, 0.750004])


@st.composite
def ranked_cases(draw: st.DrawFn) -> tuple[NDArray[np.float32], list[str], int, NDArray[np.bool_]]:
    ids = draw(
        st.lists(st.text("abc\u00e9\u4e2d\U0001f600", min_size=1, max_size=3), max_size=8, unique=True)
    )
    queries = draw(st.integers(0, 3))
    rows = draw(st.lists(SIMILARITIES, min_size=queries * len(ids), max_size=queries * len(ids)))
    masked = draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    shape = (queries, len(ids))
    similarity_QC = np.array(rows, dtype=np.float32).reshape(shape)
    return similarity_QC, ids, draw(st.integers(1, 10)), np.array(masked, dtype=bool).reshape(shape)


def ranked_by_sorting(
    similarity_QC: NDArray[np.float32], ids: list[str], k: int, excluded_QC: NDArray[np.bool_]
) -> list[list[int]]:
    return [
        sorted(
            (i for i in range(len(ids)) if not excluded_C[i]),
            key=lambda i: (-round(float(similarity_C[i]), 6), ids[i]),
        )[:k]
        for similarity_C, excluded_C in zip(similarity_QC, excluded_QC, strict=True)
    ]


@given(ranked_cases())
def test_top_k_agrees_with_sorting(
    case: tuple[NDArray[np.float32], list[str], int, NDArray[np.bool_]],
) -> None:
    similarity_QC, ids, k, excluded_QC = case
    assert top_k(similarity_QC, ids, k, excluded_QC) == ranked_by_sorting(similarity_QC, ids, k, excluded_QC)


@given(ranked_cases(), st.randoms(use_true_random=False))
def test_column_order_is_of_no_account(
    case: tuple[NDArray[np.float32], list[str], int, NDArray[np.bool_]], random: Random
) -> None:
    similarity_QC, ids, k, _ = case
    order = list(range(len(ids)))
    random.shuffle(order)
    shuffled_ids = [ids[i] for i in order]
    shuffled = top_k(similarity_QC[:, order], shuffled_ids, k)
    named = [[ids[i] for i in row] for row in top_k(similarity_QC, ids, k)]
    assert [[shuffled_ids[i] for i in row] for row in shuffled] == named


def test_by_hand() -> None:
    similarity_QC = np.array([[0.1, 0.9, 0.9, 0.5], [0.0, -1.0, -0.5, -0.2]], dtype=np.float32)
    assert top_k(similarity_QC, ["d", "c", "b", "a"], 3) == [[2, 1, 3], [0, 3, 2]]


def test_a_tie_at_the_k_th_place_goes_to_the_smaller_id() -> None:
    similarity_QC = np.array([[0.5, 0.5, 0.5, 0.9]], dtype=np.float32)
    assert top_k(similarity_QC, ["z", "m", "a", "q"], 2) == [[3, 2]]


def test_noise_below_the_rounding_orders_nothing() -> None:
    similarity_QC = np.array([[0.3 + 1e-7, 0.3, 0.3 + 2e-7]], dtype=np.float32)
    assert top_k(similarity_QC, ["c", "a", "b"], 3) == [[1, 2, 0]]


def test_differences_above_the_rounding_count() -> None:
    assert top_k(np.array([[0.3, 0.300003]], dtype=np.float32), ["a", "b"], 1) == [[1]]


def test_one_candidate() -> None:
    similarity_11 = np.array([[-1.0]], dtype=np.float32)
    assert top_k(similarity_11, ["a"], 5) == [[0]]
    assert top_k(similarity_11, ["a"], 5, np.array([[True]])) == [[]]


def test_no_candidate_and_no_query() -> None:
    assert top_k(np.empty((2, 0), dtype=np.float32), [], 3) == [[], []]
    assert top_k(np.empty((0, 2), dtype=np.float32), ["a", "b"], 3) == []


def test_excluded_candidates_do_not_use_up_the_k() -> None:
    similarity_QC = np.array([[0.9, 0.8, 0.7]], dtype=np.float32)
    assert top_k(similarity_QC, ["a", "b", "c"], 2, np.array([[True, False, False]])) == [[1, 2]]


def test_input_is_left_as_it_was() -> None:
    similarity_QC = np.array([[0.9, 0.8]], dtype=np.float32)
    top_k(similarity_QC, ["a", "b"], 1, np.array([[True, False]]))
    np.testing.assert_array_equal(similarity_QC, np.array([[0.9, 0.8]], dtype=np.float32))


def test_bad_arguments_are_refused() -> None:
    similarity_QC = np.zeros((1, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        top_k(similarity_QC, ["a", "b"], 0)
    with pytest.raises(ValueError, match="2 columns but 1 candidate ids"):
        top_k(similarity_QC, ["a"], 1)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_similarity_that_is_not_a_number_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="not a number"):
        top_k(np.array([[0.5, np.nan, 0.4]], dtype=np.float32), ["a", "b", "c"], k)


def test_cosines_by_hand() -> None:
    query_emb_QD = np.array([[3.0, 4.0]], dtype=np.float32)
    candidate_emb_CD = np.array([[6.0, 8.0], [-4.0, 3.0], [-3.0, -4.0], [1.0, 0.0]], dtype=np.float32)
    similarity_QC = cosine_similarity(query_emb_QD, candidate_emb_CD)
    np.testing.assert_allclose(similarity_QC, [[1.0, 0.0, -1.0, 0.6]], atol=1e-7)
    assert similarity_QC.dtype == np.float32


def test_zero_vector_is_similar_to_nothing() -> None:
    emb_ND = np.array([[0.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    np.testing.assert_array_equal(cosine_similarity(emb_ND, emb_ND), [[0.0, 0.0], [0.0, 1.0]])


def test_cosine_ignores_length() -> None:
    rng = np.random.default_rng(0)
    query_emb_QD, candidate_emb_CD = rng.normal(size=(3, 8)), rng.normal(size=(5, 8))
    expected = [[q @ c / np.sqrt(q @ q) / np.sqrt(c @ c) for c in candidate_emb_CD] for q in query_emb_QD]
    scaled = cosine_similarity((query_emb_QD * 1000).astype(np.float32), candidate_emb_CD.astype(np.float32))
    np.testing.assert_allclose(scaled, expected, atol=1e-6)
