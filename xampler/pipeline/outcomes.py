"""Predictions joined with gold labels: one row per method, seed and query."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from xampler.core.metrics import macro_f1, resample_macro_f1
from xampler.pipeline.context import Context
from xampler.pipeline.experiment import MajorityMethod
from xampler.pipeline.prompts import prompt_keys
from xampler.tables.schema import CANDIDATES, DEMONSTRATIONS, PREDICTIONS, QUERIES

COLUMNS = ["method", "seed", "split", "lang", "query_id", "gold", "predicted"]


@dataclass(frozen=True)
class LanguageOutcome:
    """How one method did on the N queries of one language, means over its seeds."""

    query_ids: tuple[str, ...]  # sorted
    correct_N: NDArray[np.float64]  # share of seeds that were right, in [0, 1]
    labelled: tuple[tuple[list[str], list[str]], ...]  # gold and predicted labels, by seed
    labels: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return float(self.correct_N.mean())

    @property
    def macro_f1(self) -> float:
        """In [0, 1], mean over seeds."""
        return float(np.mean([macro_f1(*labelled, self.labels) for labelled in self.labelled]))

    def resample_macro_f1(self, samples: int, seed: int) -> NDArray[np.float64]:
        """Macro-F1 [samples] of resampled queries, mean over seeds."""
        by_seed = [
            resample_macro_f1(*labelled, self.labels, samples, np.random.default_rng(seed))
            for labelled in self.labelled
        ]
        mean: NDArray[np.float64] = np.mean(by_seed, axis=0)
        return mean


def read_outcomes(context: Context, demonstrations: DataFrame | None = None) -> pd.DataFrame:
    """Columns as in COLUMNS, for all methods or the given rows of ``demonstrations``; gold is never null."""
    gold = gold_labels(context.store.read(QUERIES, experiment=context.name))
    chosen = demonstrations
    if chosen is None:
        methods = list(context.experiment.prompting_methods)
        chosen = context.store.read(DEMONSTRATIONS, experiment=context.name).where(
            F.col("method").isin(methods)
        )
    predictions = context.store.read(PREDICTIONS, **prompt_keys(context))
    rows = join_outcomes(chosen, predictions, gold, context.task.labels)
    if demonstrations is None:
        rows = rows.unionByName(_majority(context, gold))
    return rows.toPandas()


def gold_labels(queries: DataFrame) -> DataFrame:
    """``query_id``, ``split``, ``lang`` and ``gold`` of the labelled rows of ``queries``."""
    labelled = queries.where(F.col("label").isNotNull())
    return labelled.select("query_id", "split", "lang", F.col("label").alias("gold"))


def join_outcomes(
    demonstrations: DataFrame, predictions: DataFrame, gold: DataFrame, labels: Iterable[str]
) -> DataFrame:
    """Columns as in COLUMNS: what was predicted after these demonstrations, beside the gold label.

    ``predictions`` are of one language model and prompt; ``gold`` is as of :func:`gold_labels`.
    """
    predicted = predictions.select(
        "query_id", "demonstrations_id", predicted_label(labels).alias("predicted")
    )
    return (
        demonstrations.drop("lang")
        .join(predicted, on=["query_id", "demonstrations_id"], how="inner")
        .join(gold, on=["query_id", "split"], how="inner")
        .select(*COLUMNS)
    )


def by_language(outcomes: pd.DataFrame, labels: Sequence[str]) -> dict[str, LanguageOutcome]:
    """The outcomes of one method and split, by language."""
    return {str(lang): _language_outcome(rows, labels) for lang, rows in outcomes.groupby("lang", sort=True)}


def predicted_label(labels: Iterable[str]) -> Column:
    """The likeliest label of ``log_likelihoods``; the first of equals."""
    names = F.array(*[F.lit(label) for label in labels])
    best = F.array_position("log_likelihoods", F.array_max("log_likelihoods"))
    return F.element_at(names, best.cast("int"))


def _language_outcome(rows: pd.DataFrame, labels: Sequence[str]) -> LanguageOutcome:
    rows = rows.sort_values(["seed", "query_id"])  # the same resample is the same queries in every seed
    correct = (rows["gold"] == rows["predicted"]).groupby(rows["query_id"]).mean().sort_index()
    labelled = tuple(
        (seed_rows["gold"].tolist(), seed_rows["predicted"].tolist()) for _, seed_rows in rows.groupby("seed")
    )
    return LanguageOutcome(
        tuple(correct.index), np.asarray(correct, dtype=np.float64), labelled, tuple(labels)
    )


def _majority(context: Context, gold: DataFrame) -> DataFrame:
    """Rows of the methods of kind majority."""
    names = [
        name for name, method in context.experiment.methods.items() if isinstance(method, MajorityMethod)
    ]
    counts = context.store.read(CANDIDATES, experiment=context.name).groupBy("label").count().collect()
    order = {label: -position for position, label in enumerate(context.task.labels)}
    majority = max(counts, key=lambda row: (row["count"], order[row["label"]]))["label"]
    named = gold.where("split <> 'train'").withColumn(
        "method", F.explode(F.array(*[F.lit(name) for name in names]).cast("array<string>"))
    )
    return named.withColumn("seed", F.lit(0)).withColumn("predicted", F.lit(majority)).select(*COLUMNS)
