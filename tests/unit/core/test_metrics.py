import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import f1_score

from xampler.core.metrics import (
    Interval,
    bootstrap_group_mean,
    macro_f1,
    paired_difference,
    resample_macro_f1,
)

LABELS = ("sports", "health", "\u062a\u0639\u0644\u064a\u0645")
Values = list[NDArray[np.float64]]


def bootstrap_mean(values: NDArray[np.float64], samples: int, seed: int) -> Interval:
    """The interval of one language."""
    return bootstrap_group_mean([values], samples, seed)


def zeros_and_ones(share: float, queries: int) -> NDArray[np.float64]:
    ones = round(share * queries)
    return np.repeat([1.0, 0.0], [ones, queries - ones])


def nested_bootstrap_by_loops(values_GN: Values, samples: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(1)
    means = []
    for _ in range(samples):
        picked = rng.integers(len(values_GN), size=len(values_GN))
        means.append(np.mean([rng.choice(values_GN[i], len(values_GN[i])).mean() for i in picked]))
    return np.array(means)


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=30))
def test_macro_f1_agrees_with_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = zip(*pairs, strict=True)
    expected = f1_score(gold, predicted, average="macro", zero_division=0.0)
    assert macro_f1(gold, predicted, LABELS) == pytest.approx(expected)


def test_macro_f1_by_hand() -> None:
    # sports: 1 hit, 2 gold, 1 predicted: 2/3; health: 1 hit, 1 gold, 2 predicted: 2/3; the third: none.
    assert macro_f1(["sports", "sports", "health"], ["sports", "health", "health"], LABELS) == pytest.approx(
        2 / 3
    )


def test_macro_f1_counts_a_label_that_is_only_predicted() -> None:
    assert macro_f1(["sports"] * 3, ["sports", "sports", "health"], LABELS) == pytest.approx((4 / 5 + 0) / 2)


def test_macro_f1_of_one_query_and_of_none() -> None:
    assert macro_f1(["health"], ["health"], LABELS) == 1.0
    assert macro_f1(["health"], ["sports"], LABELS) == 0.0
    assert macro_f1([], [], LABELS) == 0.0


def test_interval_of_one_language_agrees_with_scipy() -> None:
    correct_N = zeros_and_ones(0.3, 200)
    found = bootstrap_mean(correct_N, samples=4000, seed=0)
    reference = stats.bootstrap((correct_N,), np.mean, n_resamples=4000, method="percentile", rng=1)
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(reference.confidence_interval.low, abs=0.01)
    assert found.high == pytest.approx(reference.confidence_interval.high, abs=0.01)


def test_group_weighs_languages_alike_whatever_their_size() -> None:
    values_GN = [np.ones(2), np.zeros(98)]
    assert bootstrap_group_mean(values_GN, samples=100, seed=0).value == 0.5


def test_languages_are_resampled() -> None:
    # All right or all wrong within a language; half of the samples hold one language twice.
    found = bootstrap_group_mean([np.ones(50), np.zeros(50)], samples=500, seed=0)
    assert (found.low, found.high) == (0.0, 1.0)


def test_queries_are_resampled_within_languages() -> None:
    values_GN = [zeros_and_ones(0.5, 100)] * 2
    found = bootstrap_group_mean(values_GN, samples=2000, seed=0)
    assert 0.1 < found.high - found.low < 0.18  # standard error 0.05 / sqrt(2): 0.139 wide


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_group_interval_agrees_with_resampling_by_loops(spread: float) -> None:
    shares = np.linspace(0.5 - spread, 0.5 + spread, 12)
    values_GN = [zeros_and_ones(share, 40) for share in shares]
    found = bootstrap_group_mean(values_GN, samples=4000, seed=0)
    low, high = np.quantile(nested_bootstrap_by_loops(values_GN, 3000), [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.008)
    assert found.high == pytest.approx(high, abs=0.008)


def test_same_seed_same_interval() -> None:
    values_GN = [zeros_and_ones(0.4, 30), zeros_and_ones(0.8, 20)]
    first, again, other = (bootstrap_group_mean(values_GN, samples=200, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert first.value == other.value


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=5), min_size=1, max_size=4), st.integers(0, 9))
def test_interval_stays_among_the_values(values: list[list[float]], seed: int) -> None:
    interval = bootstrap_group_mean([np.array(one) for one in values], samples=20, seed=seed)
    flat = [value for one in values for value in one]
    assert min(flat) - 1e-9 <= interval.low <= interval.high <= max(flat) + 1e-9


def test_language_with_one_query_has_no_spread() -> None:
    interval = bootstrap_mean(np.array([1.0]), samples=100, seed=0)
    assert (interval.value, interval.low, interval.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("values_GN", [[], [np.array([])], [np.ones(3), np.array([])]])
def test_nothing_to_take_the_mean_of_is_refused(values_GN: Values) -> None:
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_group_mean(values_GN, samples=10, seed=0)


def test_paired_difference_by_hand() -> None:
    better_GN = [np.array([1.0, 1.0, 0.0, 0.0]), np.array([1.0, 0.0]), np.array([0.0, 0.0])]
    base_GN = [np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.0, 1.0]), np.array([1.0, 0.0])]
    found = paired_difference(better_GN, base_GN, samples=500, seed=0)
    assert found.difference.value == pytest.approx((0.25 + 0.0 - 0.5) / 3)
    assert found.share_better == pytest.approx(1 / 3)  # a draw is not better


def test_pairing_takes_away_what_both_methods_share() -> None:
    base_GN = [zeros_and_ones(0.5, 100), zeros_and_ones(0.2, 100)]
    better_GN = [value_N + 0.25 for value_N in base_GN]
    found = paired_difference(better_GN, base_GN, samples=200, seed=0).difference
    assert (found.low, found.value, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_worse_method_has_a_negative_difference() -> None:
    found = paired_difference([np.zeros(20)], [np.ones(20)], samples=100, seed=0)
    assert found.difference.high == -1.0
    assert found.share_better == 0.0


@given(st.lists(st.integers(1, 3), max_size=3), st.lists(st.integers(1, 3), max_size=3))
def test_other_queries_are_refused(left: list[int], right: list[int]) -> None:
    assume(left != right)
    with pytest.raises(ValueError, match="same queries"):
        paired_difference([np.ones(n) for n in left], [np.ones(n) for n in right], samples=10, seed=0)


def test_resampled_macro_f1_agrees_with_counting_each_resample() -> None:
    gold = ["a", "a", "b", "c", "b", "a"]
    predicted = ["a", "b", "b", "a", "b", "a"]
    labels = ["a", "b", "c", "d"]
    times = np.random.default_rng(5).multinomial(6, [1 / 6] * 6, size=50)
    expected = [
        macro_f1(list(np.repeat(gold, counts)), list(np.repeat(predicted, counts)), labels)
        for counts in times
    ]
    resampled = resample_macro_f1(gold, predicted, labels, 50, np.random.default_rng(5))
    assert resampled == pytest.approx(expected, abs=1e-6)
