"""The state of the files behind a source, so that a change to them is noticed."""

import hashlib
from pathlib import Path

from pyspark.sql import SparkSession

from xampler.core.text import stable_hash
from xampler.errors import DataError
from xampler.pipeline.sources.benchmarks import find_folder
from xampler.pipeline.sources.config import Source, TableSource
from xampler.pipeline.sources.table_files import absolute, explain_read_errors


def source_state(spark: SparkSession, source: Source) -> list[str]:
    """One hash per file, sorted; none for a data set on the hub.

    Of a benchmark's files the contents count, so that a folder fetched anew is the same. Own data, which may
    be large, goes by path, size and time of change; Spark lists it: patterns and object stores included.

    Raises:
        DataError: there is no such folder or file, or a file of a benchmark cannot be read.
    """
    if isinstance(source, TableSource):
        return _state_of_delta(spark, source) if source.kind == "delta" else _state_of_table(spark, source)
    root = getattr(source, "root", None)
    if root is None:
        return []
    folder = find_folder(root)
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(stable_hash(str(path.relative_to(folder)), _content(path)) for path in files)


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


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
