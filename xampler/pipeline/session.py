"""The Spark session: one per process, with Delta, bound to loopback in local mode, quiet on screen."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field
from pyspark import SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from xampler.config import Config
from xampler.errors import SetupError
from xampler.preflight import java_problem

logger = logging.getLogger(__name__)

# delta-spark 4.4.1 is on PyPI, but its jar is not on Maven Central; 4.4.0 is on both.
DELTA_PACKAGE = "io.delta:delta-spark_4.2_2.13:4.4.0"
# Spark brings these already: without them 13 MB are fetched in place of 85.
DELTA_EXCLUDES = ",".join(
    f"{group}:*"
    for group in (
        "org.apache.hadoop",
        "org.apache.hadoop.thirdparty",
        "org.apache.parquet",
        "com.fasterxml.jackson.core",
        "com.fasterxml.jackson.datatype",
        "com.fasterxml.jackson.module",
        "com.google.code.findbugs",
        "org.apache.logging.log4j",
        "org.roaringbitmap",
        "org.slf4j",
    )
)
DELTA_CONF = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
LOCAL_CONF = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    # Delta's default of 50 makes the first count of a small table take seconds.
    "spark.databricks.delta.snapshotPartitions": "1",
}
JAR_REMEDY = (
    "connect to Maven Central once, or put the jars on this machine and name them under spark.jars in "
    "the environment file"
)


class SparkConfig(Config):
    """Where Spark runs and how it gets the Delta jars."""

    master: str | None = Field(default="local[2]")  # None: as spark-submit or the cluster says
    jars: tuple[str, ...] | None = None  # local Delta jars for closed networks; () if the cluster has them
    ivy: str = ".xampler/ivy"  # cache of the jars fetched from Maven Central
    conf: dict[str, str] = {}  # any further Spark setting
    torch_threads: int = 1  # per Python worker; workers times threads must not exceed the cores


def start_spark(config: SparkConfig, app_name: str, log_file: Path) -> SparkSession:
    """Start (or join) the process's session; Spark's own messages go to ``log_file``.

    Raises:
        SetupError: Java is missing or unfit, or the Delta jars cannot be had.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    under_submit = "PYSPARK_GATEWAY_PORT" in os.environ
    log_start = log_file.stat().st_size if log_file.exists() else 0
    problem = None if under_submit else java_problem(os.environ)
    if problem:
        raise SetupError(problem)
    _set_worker_environment(config)
    settings = _settings(config)
    try:
        with output_to(log_file):
            SparkContext._ensure_initialized() if under_submit else None
            if under_submit:
                settings |= _add_delta_to_running_jvm(config)
            session = _build(settings, app_name)
    except (PySparkException, RuntimeError) as error:
        raise _explain(error, log_file, log_start) from error
    except Exception as error:
        if type(error).__name__ != "Py4JJavaError":
            raise
        raise _explain(error, log_file, log_start) from error
    _log_to(session, log_file)
    return session


def _set_worker_environment(config: SparkConfig) -> None:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ.setdefault("OMP_NUM_THREADS", str(config.torch_threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _settings(config: SparkConfig) -> dict[str, str]:
    settings = dict(DELTA_CONF) | {
        "spark.ui.showConsoleProgress": "false",
        # Spark sets OMP_NUM_THREADS of its Python workers from here, else to the cores of a task.
        "spark.executorEnv.OMP_NUM_THREADS": str(config.torch_threads),
    }
    if config.master is not None:
        settings["spark.master"] = config.master
        if config.master.startswith("local"):
            settings |= LOCAL_CONF
    if config.jars is None:
        settings |= {
            "spark.jars.packages": DELTA_PACKAGE,
            "spark.jars.excludes": DELTA_EXCLUDES,
            "spark.jars.ivy": str(Path(config.ivy).resolve()),
        }
    elif config.jars:
        settings["spark.jars"] = ",".join(config.jars)
    return settings | config.conf


def _build(settings: dict[str, str], app_name: str) -> SparkSession:
    builder = SparkSession.builder.appName(app_name)
    for key, value in settings.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sql("SELECT 1").collect()  # a missing extension class shows only now
    return session


def _add_delta_to_running_jvm(config: SparkConfig) -> dict[str, str]:
    """Under plain spark-submit the JVM is up already: do what ``--packages`` would have done.

    Returns the settings that hand the jars to the executors.
    """
    jvm: Any = SparkContext._jvm
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    if loader.getResource("io/delta/sql/DeltaSparkSessionExtension.class") is not None:
        return {}
    jars = config.jars
    if jars is None:
        resolved = jvm.org.apache.spark.util.DependencyUtils.resolveMavenDependencies(
            True,
            DELTA_EXCLUDES,
            DELTA_PACKAGE,
            None,
            str(Path(config.ivy).resolve()),
            jvm.scala.Option.empty(),
        )
        jars = tuple(resolved.apply(i) for i in range(resolved.size()))
    for jar in jars:
        loader.addURL(jvm.java.io.File(jar).toURI().toURL())
    return {"spark.jars": ",".join(jars)}


def _explain(error: Exception, log_file: Path, log_start: int) -> SetupError:
    written = log_file.read_bytes()[log_start:] if log_file.exists() else b""
    recent = written.decode("utf-8", errors="replace") + str(error)
    if "unresolved dependency" in recent or "UNRESOLVED DEPENDENCIES" in recent or "DeltaSpark" in recent:
        return SetupError(f"the Delta Lake jars ({DELTA_PACKAGE}) could not be fetched: {JAR_REMEDY}")
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return SetupError(f"Spark did not start ({first_line}); its messages are in {log_file}")


@contextmanager
def output_to(log_file: Path) -> Iterator[None]:
    """Send file descriptors 1 and 2 to the log: the JVM started meanwhile keeps them for life."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with log_file.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])


def _log_to(session: SparkSession, log_file: Path) -> None:
    """Point log4j at the log file; under spark-submit it writes to the user's screen until here."""
    settings = log_file.with_name("log4j2.properties")
    settings.write_text(
        "rootLogger.level = warn\n"
        "rootLogger.appenderRef.file.ref = file\n"
        "appender.file.type = File\n"
        "appender.file.name = file\n"
        f"appender.file.fileName = {log_file.resolve()}\n"
        "appender.file.layout.type = PatternLayout\n"
        "appender.file.layout.pattern = %d{yy/MM/dd HH:mm:ss} %p %c{1}: %m%n%ex\n",
        encoding="utf-8",
    )
    jvm: Any = session.sparkContext._jvm
    uri = jvm.java.io.File(str(settings.resolve())).toURI()
    jvm.org.apache.logging.log4j.core.config.Configurator.reconfigure(uri)
