from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xampler.core.pairing import (
    HELD_OUT,
    NEGATIVE,
    POSITIVE,
    TRAIN,
    exclude_same_text,
    random_demonstrations,
    role_of,
    split_of,
)
from xampler.core.text import text_id

IDS = st.lists(st.text("abcd", min_size=1, max_size=3), max_size=8, unique=True)


def test_a_query_and_duplicates_of_its_text_are_excluded() -> None:
    ids = [text_id("t", "fra_Latn", text) for text in ("caf\u00e9", "cafe\u0301 ", "cafe")]
    np.testing.assert_array_equal(
        exclude_same_text(ids, ids), [[True, True, False], [True, True, False], [False, False, True]]
    )


@given(IDS, IDS)
def test_excluded_are_the_equal_ids(query_ids: list[str], candidate_ids: list[str]) -> None:
    excluded_QC = exclude_same_text(query_ids, candidate_ids)
    assert excluded_QC.shape == (len(query_ids), len(candidate_ids))
    assert excluded_QC.tolist() == [
        [query == candidate for candidate in candidate_ids] for query in query_ids
    ]


def test_a_right_prediction_makes_a_pair_positive() -> None:
    assert [role_of(predicted, gold) for predicted, gold in ((0, 0), (2, 2), (0, 2), (2, 0))] == [
        POSITIVE,
        POSITIVE,
        NEGATIVE,
        NEGATIVE,
    ]


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_held_out_share_of_queries_is_held_out(share: float) -> None:
    splits = Counter(split_of(f"query{number}", share, seed=0) for number in range(2000))
    assert set(splits) == {TRAIN, HELD_OUT}
    assert splits[HELD_OUT] / 2000 == pytest.approx(share, abs=0.035)


def test_a_larger_share_holds_out_the_same_queries_and_more() -> None:
    queries = [f"query{number}" for number in range(300)]
    small, large = ({q for q in queries if split_of(q, share, 0) == HELD_OUT} for share in (0.1, 0.2))
    assert small < large


def test_another_seed_holds_out_other_queries() -> None:
    queries = [f"query{number}" for number in range(300)]
    first, second = ({q for q in queries if split_of(q, 0.3, seed) == HELD_OUT} for seed in (0, 1))
    assert first - second
    assert second - first


def test_the_split_of_a_query_is_the_same_for_ever() -> None:
    assert [split_of(f"query{number}", 0.5, seed=7) for number in range(8)] == [
        HELD_OUT,
        HELD_OUT,
        TRAIN,
        HELD_OUT,
        HELD_OUT,
        TRAIN,
        HELD_OUT,
        HELD_OUT,
    ]


@given(IDS, st.integers(1, 10), st.integers(0, 5), st.randoms(use_true_random=False))
def test_random_demonstrations_do_not_depend_on_row_order(
    ids: list[str], n: int, seed: int, random: Random
) -> None:
    shuffled = ids[:]
    random.shuffle(shuffled)
    first, again = (
        [order[i] for i in random_demonstrations("query", order, n, seed)] for order in (ids, shuffled)
    )
    assert first == again


@given(IDS, st.integers(1, 10), st.integers(0, 5))
def test_random_demonstrations_differ_from_one_another_and_the_query(
    ids: list[str], n: int, seed: int
) -> None:
    pool = [*ids, "query"]
    drawn = random_demonstrations("query", pool, n, seed)
    assert len(drawn) == len(set(drawn)) == min(n, len(ids))
    assert "query" not in {pool[i] for i in drawn}


def test_no_other_candidate_gives_no_demonstration() -> None:
    assert random_demonstrations("query", ["query"], 3, 0) == []
    assert random_demonstrations("query", [], 3, 0) == []


def test_queries_and_seeds_draw_for_themselves() -> None:
    pool = [f"candidate{number:02}" for number in range(50)]
    draws = {tuple(random_demonstrations(query, pool, 5, seed)) for query in "abcdef" for seed in range(5)}
    assert len(draws) == 30


def test_every_candidate_is_drawn_about_as_often_and_at_every_place() -> None:
    pool = [f"candidate{number}" for number in range(5)]
    draws = [random_demonstrations(f"query{number}", pool, 2, 0) for number in range(2000)]
    for place in (0, 1):
        counts = Counter(drawn[place] for drawn in draws)
        assert all(330 < counts[i] < 470 for i in range(5))  # 400 expected, standard deviation 18
