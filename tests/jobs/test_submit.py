"""The jobs under plain spark-submit, as a scheduler runs them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from xampler.pipeline.context import Context
from xampler.tables.schema import PAIRS, SCORES

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def submit(job: str, environment: Path, config: Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(BIN / "spark-submit"), str(ROOT / "jobs" / f"{job}.py")]
    return subprocess.run(
        [*command, "--env", str(environment), "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        timeout=600,
    )


@pytest.fixture
def small_experiment(experiment: Path) -> Path:
    """The sample without the stages that train and predict: what is submitted here ends with scores."""
    values = yaml.safe_load(experiment.read_text(encoding="utf-8"))
    values["propose"] = {"by": {"kind": "bm25"}, "k": 2}
    experiment.write_text(yaml.safe_dump(values), encoding="utf-8")
    return experiment


def test_jobs_under_spark_submit(
    open_sample: Callable[..., Context], environment: Path, small_experiment: Path, tmp_path: Path
) -> None:
    for job in ("ingest_texts", "propose_pairs", "score_pairs"):
        result = submit(job, environment, small_experiment, tmp_path)
        assert result.returncode == 0, result.stderr[-3000:]
    store = open_sample().store
    assert store.read(PAIRS).count() == store.read(SCORES).count() == 56 * 2
    version = store.version(SCORES)
    assert submit("score_pairs", environment, small_experiment, tmp_path).returncode == 0
    assert store.version(SCORES) == version


def test_a_job_out_of_order_says_what_to_run(
    environment: Path, small_experiment: Path, tmp_path: Path
) -> None:
    result = submit("mine_pairs", environment, small_experiment, tmp_path)
    shown = result.stdout + result.stderr  # spark-submit passes the driver's stderr on to its own stdout
    assert result.returncode == 2
    assert "ingest has not been run with this config; run `xampler ingest" in shown
    assert "Traceback" not in shown


def test_every_stage_has_a_job() -> None:
    jobs = {path.stem.partition("_")[0] for path in (ROOT / "jobs").glob("*.py")}
    assert jobs == {
        "ingest",
        "propose",
        "score",
        "mine",
        "train",
        "retrieve",
        "predict",
        "evaluate",
        "promote",
        "label",
    }
