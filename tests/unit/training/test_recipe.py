import itertools

import pytest

from xampler.config import parse_config
from xampler.errors import ConfigError
from xampler.training.recipe import DistillRecipe, EngineConfig

DISTILL = {"loss": "distill", "learning_rate": 1e-3, "batch_size": 4, "steps": 1, "evaluate_every": 1}


@pytest.mark.parametrize("by", ["label", "both"])
def test_distillation_takes_positives_of_the_querys_label(by: str) -> None:
    assert parse_config(DistillRecipe, DISTILL | {"positives_by": by}, "test").positives_by == by
    assert parse_config(DistillRecipe, DISTILL, "test").positives_by == "both"


def test_distillation_refuses_positives_of_another_label() -> None:
    with pytest.raises(ConfigError, match="positives_by"):
        parse_config(DistillRecipe, DISTILL | {"positives_by": "judgement"}, "test")


@pytest.mark.parametrize(("stage", "offload"), itertools.product([0, 1, 2, 3], ["none", "cpu"]))
def test_offload_needs_gradients_in_parts(stage: int, offload: str) -> None:
    values = {"zero_stage": stage, "offload": offload}
    if offload == "cpu" and stage < 2:
        with pytest.raises(ConfigError, match="offload: cpu needs zero_stage 2 or 3"):
            parse_config(EngineConfig, values, "test")
    else:
        assert parse_config(EngineConfig, values, "test").zero_stage == stage
