"""Ingest: texts of a benchmark or of the user's own into ``queries`` and ``candidates``."""

import logging
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from xampler.core.text import stable_hash, text_id
from xampler.errors import DataError
from xampler.pipeline.context import Context
from xampler.pipeline.experiment import conf_folder
from xampler.pipeline.sources import load_languages, read_texts
from xampler.pipeline.sources.files import source_state
from xampler.pipeline.stage import Outcome, Part
from xampler.tables.schema import CANDIDATES, QUERIES, QUERIES_REJECTED
from xampler.tracking.run import Run

logger = logging.getLogger(__name__)

DUPLICATE = "duplicate text"
POOL_SPLIT = "train"


def ingest_part(context: Context) -> Part:
    """The stage, for this experiment."""
    return Part(
        stage="ingest",
        depends=lambda: _depends(context),
        run=lambda run: ingest_texts(context, run),
        writes=(QUERIES, CANDIDATES, QUERIES_REJECTED),
    )


def ingest_texts(context: Context, run: Run) -> Outcome:
    """Replace the experiment's queries, candidates and rejected rows.

    Raises:
        DataError: the source cannot be read, too many rows are bad, or the pool is empty.
    """
    data = context.experiment.data
    read = read_texts(context.spark, data.source, data.select, context.task, load_languages())
    texts = read.texts.withColumn("query_id", id_column(context.task.name)).persist()
    texts = _number_repeats(texts).persist()
    _check_rejected(read.rejected, texts.count(), data.max_rejected_share)
    _check_pool(context, texts)
    rejected = _rejected(context, read.rejected, texts)
    queries = texts.where("repeat = 1").withColumn("experiment", F.lit(context.name))
    rows = context.store.replace(QUERIES, queries, experiment=context.name)
    candidates = context.store.replace(CANDIDATES, _candidates(context), experiment=context.name)
    rejects = context.store.replace(QUERIES_REJECTED, rejected, experiment=context.name)
    figures = {"candidates": candidates, "rejected": rejects, "languages": _languages(context)}
    figures["leaked_texts"] = _report_leaks(context, run)
    return Outcome(rows, metrics={name: float(value) for name, value in figures.items()})


def id_column(task_name: str) -> Column:
    """The content hash of the columns ``lang`` and ``text``."""

    @F.udf(returnType=StringType(), useArrow=False)
    def identify(lang: str, text: str) -> str:
        return text_id(task_name, lang, text)

    return identify(F.col("lang"), F.col("text"))


def _number_repeats(texts: DataFrame) -> DataFrame:
    same_text = Window.partitionBy("query_id", "split").orderBy("source", "row")
    return texts.withColumn("repeat", F.row_number().over(same_text))


def _rejected(context: Context, rejected: DataFrame, texts: DataFrame) -> DataFrame:
    repeats = texts.where("repeat > 1").select(
        "source", "row", F.lit(DUPLICATE).alias("reason"), F.col("text").alias("content")
    )
    return rejected.unionByName(repeats).withColumn("experiment", F.lit(context.name))


def _in_pool(context: Context) -> Column:
    is_pool_lang = F.col("lang") == context.experiment.pool_lang
    return (F.col("split") == POOL_SPLIT) & is_pool_lang & F.col("label").isNotNull()


def _check_pool(context: Context, texts: DataFrame) -> None:
    if texts.where(_in_pool(context)).isEmpty():
        raise DataError(
            f"no labelled {POOL_SPLIT} text in {context.experiment.pool_lang}: select it under "
            "data.select.train"
        )


def _candidates(context: Context) -> DataFrame:
    pool = context.store.read(QUERIES, experiment=context.name).where(_in_pool(context))
    return pool.withColumnRenamed("query_id", "candidate_id")


def _check_rejected(rejected: DataFrame, kept: int, bound: float) -> None:
    reasons = rejected.groupBy("reason").count().orderBy(F.desc("count"), "reason").collect()
    bad = sum(row["count"] for row in reasons)
    if kept + bad == 0:
        raise DataError("the source has no rows")
    if bad > bound * (kept + bad):
        most = "; ".join(f"{row['reason']} ({row['count']})" for row in reasons[:3])
        raise DataError(
            f"{bad} of {kept + bad} rows are bad, more than data.max_rejected_share = {bound} allows: "
            f"{most}; mend the source or raise the bound"
        )


def _languages(context: Context) -> int:
    return context.store.read(QUERIES, experiment=context.name).select("lang").distinct().count()


def _report_leaks(context: Context, run: Run) -> int:
    """Texts of the pool that occur in the test split: they are kept, and reported."""
    queries = context.store.read(QUERIES, experiment=context.name)
    pool = context.store.read(CANDIDATES, experiment=context.name).select("candidate_id")
    leaked = queries.where("split = 'test'").join(
        pool, F.col("query_id") == F.col("candidate_id"), how="left_semi"
    )
    examples = leaked.select("lang", "text").limit(20).collect()
    count = leaked.count()
    if count:
        logger.warning("%d test texts occur in the training pool, e.g. %r", count, examples[0]["text"][:80])
        run.log_text("\n".join(f"{row['lang']}\t{row['text']}" for row in examples), "leaked_texts.tsv")
    return count


def _depends(context: Context) -> dict[str, Any]:
    experiment = context.experiment
    return {
        "data": experiment.data.model_dump(mode="json"),
        "pool_lang": experiment.pool_lang,
        "task": context.task.model_dump(mode="json"),
        "files": source_state(context.spark, experiment.data.source),
        "languages": stable_hash((conf_folder() / "languages.tsv").read_text(encoding="utf-8")),
    }
