import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax

from xampler.core.scoring import log_probs, score_prompts


def random_log_likelihoods(prompts: int, labels: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(-20, 5, size=(prompts, labels))


def test_log_probs_by_hand() -> None:
    # Shares 1/8, 2/8, 5/8.
    expected = [[np.log(0.125), np.log(0.25), np.log(0.625)]]
    np.testing.assert_allclose(log_probs(np.log([[1.0, 2.0, 5.0]])), expected, atol=1e-12)


def test_log_probs_agree_with_scipy() -> None:
    log_likelihood_PL = random_log_likelihoods(50, 7)
    np.testing.assert_allclose(
        log_probs(log_likelihood_PL), log_softmax(log_likelihood_PL, axis=1), atol=1e-12
    )


def test_log_probs_of_very_unlikely_words_stay_finite() -> None:
    # exp(-5000) is 0 in float64.
    np.testing.assert_allclose(log_probs(np.array([[-5000.0, -5000.0]])), np.log([[0.5, 0.5]]))
    np.testing.assert_allclose(log_probs(np.array([[0.0, -5000.0]])), [[0.0, -5000.0]])


def test_gold_log_prob_is_that_of_each_prompts_own_gold_label() -> None:
    log_likelihood_PL = np.log([[1.0, 3.0], [1.0, 3.0], [9.0, 1.0]])
    scored = score_prompts(log_likelihood_PL, np.array([0, 1, 1]))
    assert scored.predicted_P.tolist() == [1, 1, 0]
    np.testing.assert_allclose(np.exp(scored.gold_log_prob_P), [0.25, 0.75, 0.1])


def test_the_first_of_equally_likely_labels_is_predicted() -> None:
    scored = score_prompts(np.array([[-2.0, -1.0, -1.0], [-1.0, -1.0, -1.0]]), np.array([2, 2]))
    assert scored.predicted_P.tolist() == [1, 0]


def test_input_is_left_as_it_was() -> None:
    log_likelihood_PL = random_log_likelihoods(3, 4)
    before = log_likelihood_PL.copy()
    score_prompts(log_likelihood_PL, np.array([0, 1, 2]))
    np.testing.assert_array_equal(log_likelihood_PL, before)


def test_no_prompts_give_no_scores() -> None:
    scored = score_prompts(np.empty((0, 7)), np.empty(0, dtype=np.intp))
    assert (len(scored.predicted_P), len(scored.gold_log_prob_P)) == (0, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_log_likelihood_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        score_prompts(np.array([[-1.0, value]]), np.array([0]))


def test_other_number_of_gold_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="2 prompts but 1 gold labels"):
        score_prompts(random_log_likelihoods(2, 3), np.array([0]))
