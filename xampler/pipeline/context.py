"""Where a run happens, and what every stage is handed."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pyspark.sql import SparkSession

from xampler.config import Config
from xampler.core.task import Task
from xampler.pipeline.experiment import ExperimentConfig
from xampler.pipeline.markers import Markers
from xampler.pipeline.progress import Progress
from xampler.pipeline.session import SparkConfig, start_spark
from xampler.tables.store import TablesConfig, TableStore, check_writable
from xampler.tracking.run import Tracker, TrackingConfig

logger = logging.getLogger(__name__)


class Environment(Config):
    """An environment file: where tables, runs and working files live, and how Spark is reached."""

    tables: TablesConfig
    spark: SparkConfig = SparkConfig()
    tracking: TrackingConfig = TrackingConfig()
    work_dir: str = ".xampler/work"  # trained retrievers; on a cluster a folder that all nodes see
    log_file: str = ".xampler/log/xampler.log"  # messages of Spark, MLflow and training


@dataclass(frozen=True)
class Engines:
    """The open doors: Spark, tables, MLflow, the screen."""

    env: Environment
    spark: SparkSession
    store: TableStore
    tracker: Tracker
    progress: Progress

    @property
    def log_file(self) -> Path:
        """Where the engines' own messages go."""
        return Path(self.env.log_file)


@dataclass(frozen=True)
class Context:
    """One experiment on its engines."""

    engines: Engines
    experiment: ExperimentConfig
    task: Task
    fingerprints: dict[str, str] = field(default_factory=dict)  # of parts, kept for this process

    @property
    def spark(self) -> SparkSession:
        """The session."""
        return self.engines.spark

    @property
    def store(self) -> TableStore:
        """The tables."""
        return self.engines.store

    @property
    def name(self) -> str:
        """The experiment's name: owner of its rows."""
        return self.experiment.name

    @cached_property
    def markers(self) -> Markers:
        """Which parts are finished, read once: one process at a time runs an experiment."""
        return Markers(self.store, self.name)


@contextmanager
def open_engines(env: Environment, app_name: str, progress: Progress) -> Iterator[Engines]:
    """Start Spark, open tables and tracking; the session stops at the end.

    Raises:
        SetupError: Java or the Delta jars are missing.
        StoreError: the tables cannot be written.
        TrackingError: the MLflow server cannot be reached.
    """
    # The cheap checks first: Spark takes seconds to start.
    check_writable(env.tables)
    tracker = Tracker(env.tracking)
    spark = start_spark(env.spark, app_name, Path(env.log_file))
    try:
        yield Engines(env, spark, TableStore(spark, env.tables), tracker, progress)
    finally:
        spark.stop()
