"""The user's Parquet files and Delta tables, read by Spark."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from xampler.errors import DataError
from xampler.pipeline.sources.config import TableSource
from xampler.pipeline.sources.rows import BROKEN_UTF8, CONTENT_CHARACTERS
from xampler.pipeline.sources.table_files import FIELDS, Files, absolute, explain_read_errors, find_base


def read_columnar(spark: SparkSession, source: TableSource) -> DataFrame:
    """Rows in RAW_SCHEMA; ``row`` counts within a Parquet file, and in Spark's order within a Delta table.

    Raises:
        DataError: the files are missing or of another kind, a column is missing, or ``text`` is no string.
    """
    path = absolute(source.path)
    with explain_read_errors(path):
        rows = spark.read.format(source.kind).load(path)
    columns = source.columns.named()
    missing = [repr(column) for column in columns.values() if column not in rows.columns]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; it has {', '.join(map(repr, rows.columns))}"
        )
    kind = rows.schema[columns["text"]].dataType
    if not isinstance(kind, StringType):
        raise DataError(f"{path}: column {columns['text']!r} is {kind.simpleString()}; expected string")
    mapped = {field: F.col(f"`{column}`").cast("string") for field, column in columns.items()}
    fields = [mapped.get(field, F.lit(None).cast("string")).alias(field) for field in FIELDS]
    files = Files(find_base(path, rows.inputFiles()[:2]), [])
    content = F.to_json(
        F.struct(*[F.make_valid_utf8(mapped[field]).alias(columns[field]) for field in mapped])
    )
    # Delta's rows have no index of their own.
    position = F.col("_metadata.row_index") if source.kind == "parquet" else F.monotonically_increasing_id()
    valid = F.coalesce(F.is_valid_utf8(mapped["text"]), F.lit(True))
    return rows.select(
        files.source_of_metadata().alias("source"),
        (position + 1).alias("row"),
        F.left(content, F.lit(CONTENT_CHARACTERS)).alias("content"),
        F.lit(None).cast("string").alias("fault"),
        F.when(~valid, BROKEN_UTF8).alias("reason"),
        *fields,
    )
