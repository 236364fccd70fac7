"""A scoring job killed midway: the rerun finishes with every row once and redoes nothing committed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from xampler.pipeline.context import Context
from xampler.pipeline.plan import run_stages
from xampler.tables.schema import SCORES

XAMPLER = Path(sys.executable).with_name("xampler")
ROWS = 56 * 4
ROWS_PER_COMMIT = 20
MERGES_BEFORE_KILL = 2
PATIENCE_S = 240


def test_killed_scoring_resumes(
    open_sample: Callable[..., Context], environment: Path, experiment: Path, tmp_path: Path
) -> None:
    overrides = (f"rows_per_commit={ROWS_PER_COMMIT}",)
    run_stages(open_sample(*overrides), ["ingest", "propose"])

    command = [str(XAMPLER), "score", "--env", str(environment), "--config", str(experiment)]
    options = [part for override in overrides for part in ("--set", override)]
    job = subprocess.Popen(
        [*command, *options], cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL
    )
    wait_for_merges(tmp_path / "tables" / "scores" / "_delta_log", job)
    os.killpg(job.pid, signal.SIGKILL)  # the driver and its JVM at once, as when a machine is lost
    job.wait()

    context = open_sample(*overrides)
    committed = context.store.read(SCORES).count()
    assert 0 < committed < ROWS, "the kill came too late to test anything"
    again = run_stages(context, ["score"])
    assert again.prompts_scored == ROWS - committed
    scores = context.store.read(SCORES)
    assert scores.count() == scores.select(*SCORES.key).distinct().count() == ROWS
    assert sorted(run_states(context, "score")) == ["FINISHED", "KILLED"]


def run_states(context: Context, name: str) -> list[str]:
    """How MLflow says that the runs of this name ended."""
    client = context.engines.tracker.client
    experiment = client.get_experiment_by_name(context.name)
    assert experiment is not None
    return [run.info.status for run in client.search_runs([experiment.experiment_id], f"run_name = '{name}'")]


def wait_for_merges(log: Path, job: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while count_merges(log) < MERGES_BEFORE_KILL:
        if job.poll() is not None or time.monotonic() > deadline:
            pytest.fail("the scoring job ended before it could be killed")
        time.sleep(0.05)


def count_merges(log: Path) -> int:
    commits = [json.loads(line) for file in log.glob("*.json") for line in file.read_text().splitlines()]
    return sum(commit.get("commitInfo", {}).get("operation") == "MERGE" for commit in commits)
