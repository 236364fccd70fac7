"""Training pairs and parallel dev texts as Parquet shards, which ranks without Spark read as a stream."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from xampler.core.pairing import PROPOSED
from xampler.errors import TrainingError
from xampler.pipeline.context import Context
from xampler.pipeline.rounds import round_name
from xampler.tables.schema import CANDIDATES, QUERIES, TRAINING_PAIRS

JUDGED = ("candidate_id", "candidate_text", "role", "same_label", "gold_log_prob")


@dataclass(frozen=True)
class TrainingSet:
    """Folders of Parquet files."""

    shards: str  # see training/shards.py
    parallel: str | None  # (lang, parallel_id, text) of the dev split; None: there are none


def export_training_set(context: Context, recipe: str, number: int, output: Path) -> TrainingSet:
    """Write what round ``number`` of a recipe trains on beside ``output``, from one version of the table.

    Raises:
        TrainingError: there is no training pair.
    """
    shards, parallel = (output.with_name(f"{output.name}.{kind}") for kind in ("shards", "parallel"))
    for folder in (shards, parallel):
        shutil.rmtree(folder, ignore_errors=True)
    version = context.store.version(TRAINING_PAIRS)
    if version is None:
        raise TrainingError("there is no train pair to learn from; run `mine` first")
    # Sorted by a hash: an order that looks drawn, yet is the same whatever the partitions.
    queries = _judged_queries(context, recipe, number, version).orderBy(F.xxhash64("query_id"), "query_id")
    queries.write.parquet(str(shards))
    texts = _parallel_texts(context)
    if texts.isEmpty():
        return TrainingSet(str(shards), None)
    texts.orderBy("lang", "parallel_id").write.parquet(str(parallel))
    return TrainingSet(str(shards), str(parallel))


def _judged_queries(context: Context, recipe: str, number: int, version: int) -> DataFrame:
    """One row a query, its candidates of all rounds so far once each, nearest first."""
    proposers = [PROPOSED, *(round_name(recipe, earlier) for earlier in range(2, number + 1))]
    pool = context.store.read(CANDIDATES, experiment=context.name)
    queries = pool.select(F.col("candidate_id").alias("query_id"), F.col("text").alias("query_text"))
    candidates = pool.select("candidate_id", F.col("text").alias("candidate_text"))
    pairs = context.store.read_version(TRAINING_PAIRS, version, experiment=context.name)
    judged = (
        pairs.where(F.col("proposer").isin(proposers))
        .groupBy("query_id", "candidate_id", "role", "same_label", "gold_log_prob", "split")
        .agg(F.min("rank").alias("rank"))
        .join(queries, on="query_id", how="inner")
        .join(candidates, on="candidate_id", how="inner")
    )
    return judged.groupBy("query_id", "query_text", "split").agg(
        F.sort_array(F.collect_list(F.struct("rank", *JUDGED))).alias("candidates")
    )


def _parallel_texts(context: Context) -> DataFrame:
    queries = context.store.read(QUERIES, experiment=context.name)
    dev = queries.where((F.col("split") == "dev") & F.col("parallel_id").isNotNull())
    return dev.select("lang", "parallel_id", "text")
