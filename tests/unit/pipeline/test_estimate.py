import pandas as pd
import pytest

from xampler.core.prompt import Demonstration, PromptConfig
from xampler.core.task import Task
from xampler.models.build import LanguageModelConfig
from xampler.pipeline.estimate import Measured, calibrator, extrapolate, say_estimate
from xampler.pipeline.prompts import PromptPlan

ROWS = 100


@pytest.fixture
def plan() -> PromptPlan:
    return PromptPlan(
        Task(name="t", labels=("sports", "politics")),
        PromptConfig(),
        LanguageModelConfig(model="mini", device="cpu"),
        {"a": Demonstration("The team won.", "sports")},
    )


@pytest.mark.parametrize(("seconds", "prompts"), [(0.0, 64), (600.0, ROWS)])
def test_a_task_measures_some_rows_or_all(plan: PromptPlan, seconds: float, prompts: int) -> None:
    rows = pd.DataFrame(
        {"query_text": [f"query {n}" for n in range(ROWS)], "demonstration_ids": [["a"]] * ROWS}
    )
    [frame] = calibrator(plan, seconds)(iter([rows[:30], rows[30:]]))
    [found] = frame.to_dict("records")
    assert found["prompts"] == prompts
    assert found["tokens"] > found["tokens_shared"] > 0
    assert found["seconds"] > 0
    assert found["device"].startswith("cpu with")
    assert not found["on_gpu"]


@pytest.mark.parametrize(
    ("on_gpu", "gpu_given", "workers"),
    [
        (False, False, 8),
        (False, True, 8),  # language_model.device cpu
        (True, True, 4),  # two tasks share one
        (True, False, 1),  # all tasks share the first
    ],
)
def test_one_task_stands_for_all_that_run_at_once(on_gpu: bool, gpu_given: bool, workers: int) -> None:
    measured = Measured(50, 1000, 400, 2.0, "device", on_gpu, gpu_given)
    estimate = extrapolate(measured, total=500, tasks=8, gpu_tasks=4)
    assert (estimate.tokens, estimate.tokens_shared) == (10_000, 4_000)
    assert estimate.seconds == pytest.approx(20 / workers)
    said = say_estimate(estimate)
    assert f" on {workers} x device (calibrated on 50 prompts)" in said
    assert ("share its first GPU" in said) == (on_gpu and not gpu_given)
