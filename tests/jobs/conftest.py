"""Small experiments for whole runs: real mini models, a few sentences in three languages and scripts."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession
from rich.console import Console

from xampler.config import load_config
from xampler.pipeline.context import Context, Engines, Environment
from xampler.pipeline.experiment import ExperimentConfig, load_task
from xampler.pipeline.progress import Progress
from xampler.tables.store import TableStore
from xampler.tracking.run import Tracker

OpenSample = Callable[..., Context]
Submit = Callable[[str, Path], "subprocess.CompletedProcess[str]"]
ROOT = Path(__file__).resolve().parents[2]
LANGS = ["eng_Latn", "swh_Latn", "hin_Deva"]


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment file with everything under the test's folder."""
    path = tmp_path / "env.yaml"
    env = {
        "tables": {"path": str(tmp_path / "tables")},
        "spark": {"master": "local[2]", "ivy": str(ROOT / ".xampler" / "ivy")},
        "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db", "artifacts": str(tmp_path / "mlruns")},
        "work_dir": str(tmp_path / "work"),
        "log_file": str(tmp_path / "log" / "xampler.log"),
    }
    path.write_text(yaml.safe_dump(env), encoding="utf-8")
    return path


@pytest.fixture
def experiment(tmp_path: Path, copy_embedded: Callable[..., Path]) -> Path:
    """An experiment file: 56 English training sentences, 14 test sentences in each language."""
    root = copy_embedded(LANGS, 56)
    for lang in LANGS:
        test = root / "data" / "annotated" / lang / "test.tsv"
        lines = test.read_text(encoding="utf-8").splitlines(keepends=True)
        test.write_text("".join(lines[:15]), encoding="utf-8")
    values = yaml.safe_load((ROOT / "conf" / "experiments" / "demo.yaml").read_text(encoding="utf-8"))
    values["name"] = "sample"
    values["data"]["source"] = {"format": "sib200", "root": str(root)}
    values["data"]["select"]["test"] = LANGS
    values["demonstrations"] = 3
    values["propose"]["k"] = 4
    values["rows_per_commit"] = 50
    values["train"]["recipes"]["infonce"] |= {"steps": 6, "batch_size": 8, "evaluate_every": 3}
    values["methods"]["random"]["seeds"] = [0, 1]
    values["promote"]["model_name"] = "xampler-sample"
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture
def open_sample(spark: SparkSession, environment: Path, experiment: Path) -> OpenSample:
    """Open the experiment on the tests' session: ``open_sample(*overrides)``."""

    def open_it(*overrides: str) -> Context:
        env = load_config(Environment, environment)
        progress = Progress(Console(), quiet=True)
        engines = Engines(env, spark, TableStore(spark, env.tables), Tracker(env.tracking), progress)
        config = load_config(ExperimentConfig, experiment, overrides)
        return Context(engines, config, load_task(config.task))

    return open_it


@pytest.fixture
def submit(environment: Path, tmp_path: Path) -> Submit:
    """Run a job under plain spark-submit, as a scheduler does: ``submit(job, config)``."""
    bin_folder = Path(sys.executable).parent

    def submit_it(job: str, config: Path) -> "subprocess.CompletedProcess[str]":
        command = [str(bin_folder / "spark-submit"), str(ROOT / "jobs" / f"{job}.py")]
        return subprocess.run(
            [*command, "--env", str(environment), "--config", str(config)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"},
            timeout=600,
        )

    return submit_it
