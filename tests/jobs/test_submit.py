"""Jobs under plain spark-submit, as a scheduler runs them; test_chain.py goes through them all."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from xampler.pipeline.context import Context
from xampler.tables.schema import PAIRS, SCORES

Submit = Callable[[str, Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def small_experiment(experiment: Path) -> Path:
    """The sample with few pairs, and no model to propose them."""
    values = yaml.safe_load(experiment.read_text(encoding="utf-8"))
    values["propose"] = {"by": {"kind": "bm25"}, "k": 2}
    experiment.write_text(yaml.safe_dump(values), encoding="utf-8")
    return experiment


def test_jobs_under_spark_submit(
    open_sample: Callable[..., Context], submit: Submit, small_experiment: Path
) -> None:
    for job in ("ingest_texts", "propose_pairs", "score_pairs"):
        result = submit(job, small_experiment)
        assert result.returncode == 0, result.stderr[-3000:]
    store = open_sample().store
    assert store.read(PAIRS).count() == store.read(SCORES).count() == 56 * 2
    version = store.version(SCORES)
    assert submit("score_pairs", small_experiment).returncode == 0
    assert store.version(SCORES) == version


def test_a_job_out_of_order_says_what_to_run(submit: Submit, small_experiment: Path) -> None:
    result = submit("mine_pairs", small_experiment)
    shown = result.stdout + result.stderr  # spark-submit passes the driver's stderr on to its own stdout
    assert result.returncode == 2
    assert "ingest has not been run with this config; run `xampler ingest" in shown
    assert "Traceback" not in shown
