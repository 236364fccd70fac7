"""The user's JSONL files, read by Spark line by line, so that one large file is many tasks' work."""

from itertools import groupby

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from xampler.errors import DataError
from xampler.pipeline.sources.config import TableSource
from xampler.pipeline.sources.rows import BROKEN_JSON, BROKEN_UTF8, CONTENT_CHARACTERS
from xampler.pipeline.sources.table_files import FIELDS, Files, list_files

BROKEN = "_broken_line"


def read_jsonl(spark: SparkSession, source: TableSource) -> DataFrame:
    """Lines in RAW_SCHEMA, blank ones left out; ``row`` is the number of the line in its file.

    Raises:
        DataError: a column is in no line.
    """
    files = list_files(spark, source)
    columns = source.columns.named()
    lines = _number_lines(spark, files)
    schema = StructType(
        [StructField(name, StringType()) for name in [*dict.fromkeys(columns.values()), BROKEN]]
    )
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": BROKEN}
    parsed = lines.withColumn("parsed", F.from_json("value", schema, options))
    _check_columns(parsed, columns, source.path)
    is_object = F.ltrim("value").startswith("{") & F.col("parsed")[BROKEN].isNull()
    reason = F.when(~F.is_valid_utf8("value"), BROKEN_UTF8).when(~is_object, BROKEN_JSON)
    fields = [
        F.when(is_object, F.col("parsed")[columns[field]]).alias(field)
        if field in columns
        else F.lit(None).cast("string").alias(field)
        for field in FIELDS
    ]
    content = F.left(F.make_valid_utf8("value"), F.lit(CONTENT_CHARACTERS)).alias("content")
    fault = F.lit(None).cast("string").alias("fault")
    return parsed.where(F.trim("value") != "").select(
        "source", "row", content, fault, reason.alias("reason"), *fields
    )


def _number_lines(spark: SparkSession, files: Files) -> DataFrame:
    """``source``, ``row`` (line number from 1) and ``value`` of every line.

    Spark numbers lines within a task; how many lines the blocks of a file before it have takes a pass.
    """
    lines = spark.read.text(files.paths).select(
        files.source_of_metadata().alias("source"),
        F.col("_metadata.file_block_start").alias("block"),
        F.monotonically_increasing_id().alias("position"),
        "value",
    )
    blocks = lines.groupBy("source", "block").agg(F.min("position"), F.count(F.lit(1))).collect()
    shifts = []
    for _, of_file in groupby(sorted(blocks), key=lambda block: block[0]):
        before = 0
        for source, block, position, count in of_file:
            shifts.append((source, block, before + 1 - position))
            before += count
    shift = spark.createDataFrame(shifts, "source string, block long, shift long")
    numbered = lines.join(F.broadcast(shift), on=["source", "block"], how="inner")
    return numbered.select("source", (F.col("position") + F.col("shift")).alias("row"), "value")


def _check_columns(parsed: DataFrame, columns: dict[str, str], path: str) -> None:
    present = [F.max(F.col("parsed")[column].isNotNull()) for column in columns.values()]
    [found] = parsed.agg(*present).collect()
    missing = [repr(column) for column, seen in zip(columns.values(), found, strict=True) if not seen]
    if missing:
        first = parsed.agg(
            F.first(F.json_object_keys(F.make_valid_utf8("value")), ignorenulls=True)
        ).collect()[0][0]
        keys = ", ".join(map(repr, first)) if first else "no JSON object"
        raise DataError(
            f"{path}: no line has {', '.join(missing)}; the first one has {keys}; name the columns right"
        )
