"""The user's own data: rows are checked one by one, files as wholes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from xampler.core.language import CODE_PATTERN, Languages
from xampler.core.task import Task
from xampler.errors import DataError
from xampler.pipeline.sources.config import SPLITS, Selection, TableSource
from xampler.pipeline.sources.rows import (
    EMPTY_TEXT,
    MALFORMED_LANG,
    NO_LABEL,
    UNKNOWN_LABEL,
    UNKNOWN_SPLIT,
    TextsRead,
)
from xampler.pipeline.sources.selecting import Chosen, Offer, choose
from xampler.pipeline.sources.table_columnar import read_columnar
from xampler.pipeline.sources.table_delimited import read_delimited
from xampler.pipeline.sources.table_files import absolute, explain_read_errors
from xampler.pipeline.sources.table_jsonl import read_jsonl

READERS: dict[str, Callable[[SparkSession, TableSource], DataFrame]] = {
    "tsv": read_delimited,
    "csv": read_delimited,
    "jsonl": read_jsonl,
    "parquet": read_columnar,
    "delta": read_columnar,
}
MAX_GROUPS = 10_000  # distinct languages and splits; more of them are something else
FAULTS_SHOWN = 3
BLANKS = " \t\r\n"
CHOSEN_SCHEMA = "source_lang string, split string, lang string"


@dataclass(frozen=True)
class Survey:
    """What one pass over the data found: usable (language, split) pairs, and faults of files."""

    pairs: frozenset[tuple[str, str]]
    faults: tuple[str, ...]

    def splits_of(self, source_lang: str) -> list[str]:
        """Splits with a usable row of this language."""
        return [split for split in SPLITS if (source_lang, split) in self.pairs]


def read_table(
    spark: SparkSession, source: TableSource, selection: Selection, task: Task, languages: Languages
) -> TextsRead:
    """The selected rows of the user's own data; see ``read_texts``."""
    if source.columns.label is None and selection.train:
        raise DataError(f"{source.path}: training texts need labels; name their column as columns.label")
    if source.lang is not None:
        languages.resolve(source.lang)
    with explain_read_errors(absolute(source.path)):
        rows = _with_reasons(READERS[source.kind](spark, source), source, task)
        survey = _survey(rows, source)
        _check(survey, rows, source)
    offer = Offer(source.path, sorted({lang for lang, _ in survey.pairs}), survey.splits_of)
    chosen, warnings = choose(offer, selection, languages)
    return TextsRead(
        _select_texts(rows, _to_frame(spark, chosen)),
        _select_rejected(spark, rows, survey, chosen),
        tuple(warnings),
    )


def _with_reasons(raw: DataFrame, source: TableSource, task: Task) -> DataFrame:
    """RAW_SCHEMA with constants filled in and ``source_lang``, the first reason against each row kept."""
    lang = F.btrim("lang", F.lit(BLANKS)) if source.lang is None else F.lit(source.lang)
    split = F.lit(source.split) if source.columns.split is None else F.btrim("split", F.lit(BLANKS))
    label = F.when(F.col("label") != "", F.col("label"))
    rows = raw.withColumns({"source_lang": lang, "split": split, "label": label})
    # (?U): blanks of all scripts, as in the identity of texts.
    reason = (
        F.when(F.col("fault").isNotNull(), F.lit(None))
        .when(F.col("reason").isNotNull(), F.col("reason"))
        .when(_lacks("text", F.col("text").rlike(r"(?U)\S")), EMPTY_TEXT)
        .when(_lacks("source_lang", F.col("source_lang").rlike(CODE_PATTERN)), MALFORMED_LANG)
        .when(_lacks("split", F.col("split").isin(*SPLITS)), UNKNOWN_SPLIT)
    )
    if source.columns.label is not None:
        # Texts that are to be labelled may stand beside labelled ones; training needs labels.
        reason = reason.when((F.col("split") == "train") & F.col("label").isNull(), NO_LABEL)
        reason = reason.when(~F.col("label").isin(*task.labels), UNKNOWN_LABEL)
    return rows.withColumn("reason", reason)


def _lacks(column: str, condition: Column) -> Column:
    return F.col(column).isNull() | ~condition


def _survey(rows: DataFrame, source: TableSource) -> Survey:
    usable = rows.where("reason IS NULL").select("fault", "source_lang", "split").distinct()
    found = usable.limit(MAX_GROUPS + 1).collect()
    if len(found) > MAX_GROUPS:
        raise DataError(
            f"{source.path}: column {source.columns.lang!r} has more than {MAX_GROUPS} different values; "
            "name the column of language codes as columns.lang"
        )
    return Survey(
        frozenset((row["source_lang"], row["split"]) for row in found if row["fault"] is None),
        tuple(sorted(row["fault"] for row in found if row["fault"] is not None)),
    )


def _check(survey: Survey, rows: DataFrame, source: TableSource) -> None:
    if survey.faults:
        more = len(survey.faults) - FAULTS_SHOWN
        ending = [f"and {more} more files"] if more > 0 else []
        raise DataError("\n".join([*survey.faults[:FAULTS_SHOWN], *ending]))
    if survey.pairs:
        return
    counts = rows.groupBy("reason").agg(F.count(F.lit(1)).alias("rows"), F.min("content").alias("content"))
    reasons = [
        f"{row['reason']} ({row['rows']} rows, one is {row['content'][:100]!r})"
        for row in counts.orderBy(F.desc("rows")).limit(FAULTS_SHOWN).collect()
    ]
    raise DataError(f"{source.path}: no usable row: {'; '.join(reasons) or 'it has none'}")


def _select_texts(rows: DataFrame, chosen: DataFrame) -> DataFrame:
    usable = rows.where("reason IS NULL").drop("lang")
    joined = usable.join(F.broadcast(chosen), on=["source_lang", "split"], how="inner")
    return joined.select(
        "lang", "source_lang", "split", "text", "label", F.col("id").alias("parallel_id"), "source", "row"
    )


def _select_rejected(
    spark: SparkSession, rows: DataFrame, survey: Survey, chosen: Sequence[Chosen]
) -> DataFrame:
    """Rows with a reason, but none of those languages and splits that the selection leaves out."""
    left_out = sorted(survey.pairs - {(item.source_lang, item.split) for item in chosen})
    unwanted = spark.createDataFrame(left_out, "source_lang string, split string")
    rejected = rows.where("reason IS NOT NULL")
    wanted = rejected.join(F.broadcast(unwanted), on=["source_lang", "split"], how="left_anti")
    return wanted.select("source", "row", "reason", "content")


def _to_frame(spark: SparkSession, chosen: Sequence[Chosen]) -> DataFrame:
    pairs = [(item.source_lang, item.split, item.language.code) for item in chosen]
    return spark.createDataFrame(pairs, CHOSEN_SCHEMA)
