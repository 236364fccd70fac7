"""A job under plain spark-submit, as a scheduler runs it; test_chain.py goes through them all.

A start costs half a minute, so the stages before it run in this process.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from xampler.errors import DataError
from xampler.pipeline.context import Context
from xampler.pipeline.plan import run_stages
from xampler.tables.schema import PAIRS, SCORES

Submit = Callable[[str, Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def small_experiment(experiment: Path) -> Path:
    """The sample with few pairs, and no model to propose them."""
    values = yaml.safe_load(experiment.read_text(encoding="utf-8"))
    values["propose"] = {"by": {"kind": "bm25"}, "k": 2}
    experiment.write_text(yaml.safe_dump(values), encoding="utf-8")
    return experiment


def test_a_job_under_spark_submit_twice(
    open_sample: Callable[..., Context], submit: Submit, small_experiment: Path
) -> None:
    with pytest.raises(DataError, match=r"ingest has not been run with this config; run `xampler ingest"):
        run_stages(open_sample(), ["score"])
    run_stages(open_sample(), ["ingest", "propose"])
    result = submit("score_pairs", small_experiment)
    assert result.returncode == 0, result.stderr[-3000:]
    store = open_sample().store
    assert store.read(PAIRS).count() == store.read(SCORES).count() == 56 * 2
    version = store.version(SCORES)
    assert submit("score_pairs", small_experiment).returncode == 0
    assert store.version(SCORES) == version


def test_a_job_that_cannot_be_done_says_what_to_run(submit: Submit, tmp_path: Path) -> None:
    columns = {"text": "text", "lang": "lang"}
    source = {"format": "table", "path": str(tmp_path), "kind": "jsonl", "columns": columns}
    config = tmp_path / "label.yaml"
    config.write_text(yaml.safe_dump({"corpus": "c", "model_name": "no-such", "source": source}))
    result = submit("label_corpus", config)
    shown = result.stdout + result.stderr  # spark-submit passes the driver's stderr on to its own stdout
    assert result.returncode == 2
    assert "the registry has no model 'no-such'" in shown
    assert "run `xampler run`" in shown
    assert "Traceback" not in shown
