"""The user's files, found and made ready: what the readers of all kinds share.

Each reader gives RAW_SCHEMA: every row of the files, the mapped columns as strings (null where not mapped),
``reason`` where the row cannot be used and ``fault`` where its whole file cannot.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from xampler.errors import DataError
from xampler.pipeline.sources.config import TableSource

RAW_SCHEMA = (
    "source string, row long, content string, fault string, reason string, "
    "text string, lang string, label string, split string, id string"
)
FIELDS = ("text", "lang", "label", "split", "id")
SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:")
PATTERN = re.compile(r"[*?\[{]")
# What Spark and Delta call files that are missing or not what their kind says.
READ_ERRORS = re.compile(
    r"\[(PATH_NOT_FOUND|FAILED_READ_FILE|CANNOT_READ_FILE_FOOTER|UNABLE_TO_INFER_SCHEMA|DELTA_[A-Z_]+)[^\]]*\]"
)


@dataclass(frozen=True)
class Files:
    """Files to read, and the folder that their names are told from."""

    base: str
    paths: list[str]

    def name_of(self, path: Column) -> Column:
        """A path, not URL-encoded, relative to ``base``."""
        return F.substring_index(path, f"{self.base}/", -1)

    def source_of_metadata(self) -> Column:
        """The same for the hidden ``_metadata`` column, whose paths are URL-encoded."""
        return self.name_of(F.url_decode(F.replace(F.col("_metadata.file_path"), F.lit("+"), F.lit("%2B"))))


def absolute(path: str) -> str:
    """A local path made absolute; one with a scheme as it is."""
    return path if SCHEME.match(path) else os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 (may be a pattern)


def find_base(path: str, listed: list[str]) -> str:
    """The folder of a file, the folder itself, or the folder above a pattern."""
    pattern = PATTERN.search(path)
    if pattern:
        return path[: pattern.start()].rpartition("/")[0]
    return path.rpartition("/")[0] if _is_file(path, listed) else path.rstrip("/")


def list_files(spark: SparkSession, source: TableSource) -> Files:
    """The files meant by the source's path; of a folder those whose name ends as the kind says.

    Raises:
        DataError: there is none with content (Spark passes over files of no bytes).
    """
    path = absolute(source.path)
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    with explain_read_errors(path):
        listed = [row["path"] for row in reader.load(path).select("path").collect()]
    whole_folder = not PATTERN.search(path) and not _is_file(path, listed)
    ending = re.compile(rf"\.{source.kind}(\.gz)?$")
    paths = sorted(name for name in listed if not whole_folder or ending.search(name))
    if not paths:
        raise DataError(
            f"{path}: empty, no {source.kind} file with content; give a file, a folder with *.{source.kind} "
            "or a pattern of files"
        )
    return Files(find_base(path, paths), paths)


@contextmanager
def explain_read_errors(path: str) -> Iterator[None]:
    """Raise Spark's errors about files as DataError; others pass."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        found = READ_ERRORS.search(str(error))
        if found is None:
            raise
        line = str(error)[found.start() :].splitlines()[0]
        raise DataError(f"{path}: cannot be read: {line[:300]}; check the path and the kind") from error


def _is_file(path: str, listed: list[str]) -> bool:
    return len(listed) == 1 and listed[0].endswith(path)
