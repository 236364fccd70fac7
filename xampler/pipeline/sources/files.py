"""The state of the files behind a source, so that a change to them is noticed."""

from pyspark.sql import SparkSession

from xampler.core.text import stable_hash
from xampler.pipeline.sources.benchmarks import find_folder
from xampler.pipeline.sources.config import Source, TableSource
from xampler.pipeline.sources.table_files import absolute, explain_read_errors


def source_state(spark: SparkSession, source: Source) -> list[str]:
    """One hash per file (path, size, time of change), sorted; none for a data set on the hub.

    Own data is listed by Spark, wherever Spark finds it: patterns and object stores included.

    Raises:
        DataError: there is no such folder or file.
    """
    if isinstance(source, TableSource):
        return _state_of_delta(spark, source) if source.kind == "delta" else _state_of_table(spark, source)
    root = getattr(source, "root", None)
    if root is None:
        return []
    files = (path for path in find_folder(root).rglob("*") if path.is_file())
    return sorted(
        stable_hash(str(path.resolve()), str(path.stat().st_size), str(path.stat().st_mtime_ns))
        for path in files
    )


def _state_of_table(spark: SparkSession, source: TableSource) -> list[str]:
    path = absolute(source.path)
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    with explain_read_errors(path):
        rows = reader.load(path).select("path", "length", "modificationTime").collect()
    return sorted(stable_hash(*(str(value) for value in row)) for row in rows)


def _state_of_delta(spark: SparkSession, source: TableSource) -> list[str]:
    path = absolute(source.path)
    with explain_read_errors(path):
        history = spark.sql(f"DESCRIBE HISTORY delta.`{path}` LIMIT 1")
        [last] = history.select("version", "timestamp").collect()
    return [stable_hash(path, *(str(value) for value in last))]
