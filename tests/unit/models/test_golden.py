"""The mini language model's log-likelihoods as transformers computed them once, by itself.

In float64, one forward for each prompt and label, encoded together; transformers 5.23, torch 2.15. A mini
model that is trained anew needs new ones.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from xampler import score_labels
from xampler.models.build import LanguageModelConfig, load_language_model

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "data" / "golden_log_likelihoods.json").read_text(encoding="utf-8")
)


def test_scores_are_the_golden_ones() -> None:
    scores = score_labels("mini", GOLDEN["prompts"], GOLDEN["labels"])
    np.testing.assert_allclose(scores, GOLDEN["log_likelihoods"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("tokens_per_batch", [1, 2048])
def test_bfloat16_is_near_the_golden_ones(tokens_per_batch: int) -> None:
    config = LanguageModelConfig(model="mini", dtype="bfloat16", tokens_per_batch=tokens_per_batch)
    scores = load_language_model(config).score_labels(GOLDEN["prompts"], GOLDEN["labels"])
    np.testing.assert_allclose(scores, GOLDEN["log_likelihoods"], rtol=0, atol=0.5)
