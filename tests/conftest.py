"""One Spark session, one MLflow store and small real data for all tests."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from xampler.core.task import Task
from xampler.pipeline.session import SparkConfig, start_spark
from xampler.tables.store import TablesConfig, TableStore

ROOT = Path(__file__).resolve().parent.parent
# The cache that `make demo` fills as well: the jars are fetched once.
IVY = ROOT / ".xampler" / "ivy"


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The process's session: two workers, two shuffle partitions."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    log = tmp_path_factory.mktemp("spark") / "spark.log"
    session = start_spark(SparkConfig(ivy=str(IVY)), "tests", log)
    yield session
    session.stop()


@pytest.fixture
def store(spark: SparkSession, tmp_path: Path) -> TableStore:
    """An empty store of its own."""
    return TableStore(spark, TablesConfig(path=str(tmp_path / "tables")))


@pytest.fixture
def sib200_task() -> Task:
    """The shipped task."""
    from xampler.pipeline.experiment import load_task

    return load_task("sib200")


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The embedded data, in SIB-200's layout."""
    return ROOT / "xampler" / "data" / "embedded"


@pytest.fixture
def copy_embedded(embedded: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy some languages of the embedded data, cut to a number of rows, to a folder that may be spoilt."""

    def copy(langs: list[str], rows: int) -> Path:
        target = tmp_path / "sample"
        for lang in langs:
            folder = target / "data" / "annotated" / lang
            shutil.copytree(embedded / "data" / "annotated" / lang, folder)
            for file in folder.glob("*.tsv"):
                lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
                file.write_text("".join(lines[: rows + 1]), encoding="utf-8")
        return target

    return copy
