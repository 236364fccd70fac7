"""The user's TSV and CSV files, parsed in Python on the executors, a file per task, row by row.

Spark's CSV reader takes a quote that is never closed for a text that reaches to the end of the file, matches
columns by position where the files of a folder differ, and replaces invalid bytes without a word.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.fs
from pyspark.sql import DataFrame, SparkSession

from xampler.errors import DataError
from xampler.pipeline.sources.config import TableSource
from xampler.pipeline.sources.delimited import find_columns, read_records
from xampler.pipeline.sources.rows import BROKEN_UTF8, CONTENT_CHARACTERS
from xampler.pipeline.sources.table_files import RAW_SCHEMA, list_files

DELIMITERS = {"tsv": "\t", "csv": ","}
ROWS_PER_BATCH = 5_000
MAX_TASKS = 200
# No file, no driver for its store or broken gzip; an unknown kind of address; a store that this build of
# pyarrow has not got.
READ_ERRORS = (OSError, ValueError, NotImplementedError)


class RawRow(NamedTuple):
    """RAW_SCHEMA."""

    source: str
    row: int
    content: str = ""
    fault: str | None = None
    reason: str | None = None
    text: str | None = None
    lang: str | None = None
    label: str | None = None
    split: str | None = None
    id: str | None = None


def read_delimited(spark: SparkSession, source: TableSource) -> DataFrame:
    """Rows of TSV or CSV files in RAW_SCHEMA; faults of files are rows with ``fault``."""
    files = list_files(spark, source)
    parse = partial(_parse_batches, columns=source.columns.named(), delimiter=DELIMITERS[source.kind])
    paths = spark.createDataFrame([(path,) for path in files.paths], "path string")
    spread = paths.repartition(min(len(files.paths), MAX_TASKS))
    return spread.select("path", files.name_of(paths["path"]).alias("source")).mapInArrow(parse, RAW_SCHEMA)


def parse_rows(name: str, content: BinaryIO, columns: Mapping[str, str], delimiter: str) -> Iterator[RawRow]:
    """Rows of one file; ``columns`` maps the fields of RAW_SCHEMA to the file's columns.

    Raises:
        DataError: a column is missing or the quoting is broken.
    """
    # Invalid bytes become lone surrogates, so that only their row is lost.
    stream = io.TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape", newline="")
    records = read_records(name, stream, delimiter)
    header = next(records, None)
    if header is None:
        raise DataError(f"{name}: empty; expected a first line with {', '.join(columns.values())}")
    found = find_columns(name, header.fields, list(columns.values()))
    positions = dict(zip(columns, found, strict=True))
    for row, record in enumerate(records, 1):
        yield _to_row(name, row, record.fields, len(header.fields), positions)


def _to_row(name: str, row: int, fields: Sequence[str], width: int, positions: Mapping[str, int]) -> RawRow:
    content = "\t".join(fields)
    if not content.isascii() and content != _printable(content):
        return RawRow(name, row, _printable(content)[:CONTENT_CHARACTERS], reason=BROKEN_UTF8)
    if len(fields) != width:
        reason = f"{len(fields)} fields where the first line has {width}"
        return RawRow(name, row, content[:CONTENT_CHARACTERS], reason=reason)
    values = {field: fields[position] for field, position in positions.items()}
    return RawRow(name, row, content[:CONTENT_CHARACTERS], **values)


def _parse_file(path: str, name: str, columns: Mapping[str, str], delimiter: str) -> Iterator[RawRow]:
    """Rows of one file; what is wrong with the file itself ends it with a row that tells so."""
    try:
        with _open(path) as content:
            yield from parse_rows(name, content, columns, delimiter)
    except DataError as error:
        yield RawRow(name, 0, fault=_printable(str(error)))
    except READ_ERRORS as error:
        yield RawRow(
            name, 0, fault=f"{name}: cannot be read ({error}); every executor must be able to open it"
        )


def _open(path: str) -> BinaryIO:
    """The bytes of a file as Spark names it, decompressed as its ending says."""
    if path.startswith("file:"):
        store, inner = pyarrow.fs.LocalFileSystem(), re.sub("^file:/+", "/", path)
    else:
        store, inner = pyarrow.fs.FileSystem.from_uri(re.sub("^s3[an]:", "s3:", path))
    stream: BinaryIO = store.open_input_stream(inner)
    return stream


def _printable(text: str) -> str:
    return text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")


def _parse_batches(
    batches: Iterator[pa.RecordBatch], columns: Mapping[str, str], delimiter: str
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for file in batch.to_pylist():
            rows = _parse_file(file["path"], file["source"], columns, delimiter)
            while chunk := list(islice(rows, ROWS_PER_BATCH)):
                yield _to_batch(chunk)


def _to_batch(rows: Sequence[RawRow]) -> pa.RecordBatch:
    types = [pa.int64() if field == "row" else pa.string() for field in RawRow._fields]
    arrays = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=list(RawRow._fields))
