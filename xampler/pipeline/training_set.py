"""Training pairs and parallel dev texts as Parquet shards, which ranks without Spark read as a stream."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from xampler.errors import TrainingError
from xampler.pipeline.context import Context
from xampler.pipeline.rounds import proposers_of
from xampler.tables.schema import CANDIDATES, QUERIES, TRAINING_PAIRS

JUDGED = ("candidate_id", "candidate_text", "role", "same_label", "gold_log_prob")


SHARDS, PARALLEL, VERSION = "shards", "parallel", "version.json"  # names in the set's folder


@dataclass(frozen=True)
class TrainingSet:
    """Folders of Parquet files."""

    shards: str  # see training/shards.py
    parallel: str | None  # (lang, parallel_id, text) of the dev split; None: there are none
    version: int  # Delta version of training_pairs that the shards were read from


def export_training_set(context: Context, recipe: str, number: int, output: Path) -> TrainingSet:
    """What round ``number`` of a recipe trains on, from one version of the table, beside ``output``.

    It is written once: ``output`` is named by everything that the rows depend on, and ranks that outlive
    a killed driver go on reading it.

    Raises:
        TrainingError: there is no training pair.
    """
    folder = output.with_name(f"{output.name}.training_set")
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        _write(context, recipe, number, partial)
        partial.rename(folder)
    version = json.loads((folder / VERSION).read_text(encoding="utf-8"))
    parallel = folder / PARALLEL
    return TrainingSet(
        str(folder / SHARDS), str(parallel) if parallel.is_dir() else None, version[TRAINING_PAIRS.name]
    )


def _write(context: Context, recipe: str, number: int, folder: Path) -> None:
    version = context.store.version(TRAINING_PAIRS)
    if version is None:
        raise TrainingError("there is no train pair to learn from; run `mine` first")
    # Sorted by a hash: an order that looks drawn, yet is the same whatever the partitions.
    queries = _judged_queries(context, recipe, number, version).orderBy(F.xxhash64("query_id"), "query_id")
    # The scheme is given: the ranks read files, whatever file system Spark takes by itself.
    queries.write.parquet(f"file://{folder / SHARDS}")
    texts = _parallel_texts(context)
    if not texts.isEmpty():
        texts.orderBy("lang", "parallel_id").write.parquet(f"file://{folder / PARALLEL}")
    (folder / VERSION).write_text(json.dumps({TRAINING_PAIRS.name: version}), encoding="utf-8")


def _judged_queries(context: Context, recipe: str, number: int, version: int) -> DataFrame:
    """One row a query, its candidates of all rounds so far once each, nearest first."""
    pool = context.store.read(CANDIDATES, experiment=context.name)
    queries = pool.select(F.col("candidate_id").alias("query_id"), F.col("text").alias("query_text"))
    candidates = pool.select("candidate_id", F.col("text").alias("candidate_text"))
    pairs = context.store.read_version(TRAINING_PAIRS, version, experiment=context.name)
    judged = (
        pairs.where(F.col("proposer").isin(proposers_of(recipe, number)))
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
