"""Predictions joined with gold labels: one row per method, seed and query."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from xampler.core.metrics import macro_f1, resample_macro_f1
from xampler.pipeline.context import Context
from xampler.pipeline.experiment import MajorityMethod
from xampler.pipeline.prompts import prompt_keys
from xampler.tables.schema import CANDIDATES, DEMONSTRATIONS, PREDICTIONS, QUERIES

COLUMNS = ["method", "seed", "split", "lang", "query_id", "gold", "predicted", "predicted_own"]


@dataclass(frozen=True)
class LanguageOutcome:
    """How one method did on the N queries of one language, means over its seeds."""

    query_ids: tuple[str, ...]  # sorted
    correct_N: NDArray[np.float64]  # share of seeds that were right, in [0, 1]
    correct_own_N: NDArray[np.float64]  # the same among the labels that occur in the language
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
    """``query_id``, ``split``, ``lang``, ``gold`` and ``own_labels`` of the labelled rows of ``queries``.

    ``own_labels`` are those that occur in the row's language and split: no query of English MasakhaNEWS is
    about religion, so English demonstrations can never show that label.
    """
    labelled = queries.where(F.col("label").isNotNull())
    of_language = Window.partitionBy("split", "lang")
    return labelled.select(
        "query_id",
        "split",
        "lang",
        F.col("label").alias("gold"),
        F.collect_set("label").over(of_language).alias("own_labels"),
    )


def join_outcomes(
    demonstrations: DataFrame, predictions: DataFrame, gold: DataFrame, labels: Iterable[str]
) -> DataFrame:
    """Columns as in COLUMNS: what was predicted after these demonstrations, beside the gold label.

    ``predictions`` are of one language model and prompt; ``gold`` is as of :func:`gold_labels`.
    """
    scored = predictions.select("query_id", "demonstrations_id", "log_likelihoods")
    names = F.array(*[F.lit(label) for label in labels])
    own = F.transform(
        names,
        lambda name, position: F.when(
            F.array_contains("own_labels", name), F.element_at("log_likelihoods", position + 1)
        ).otherwise(-math.inf),
    )
    return (
        demonstrations.drop("lang")
        .join(scored, on=["query_id", "demonstrations_id"], how="inner")
        .join(gold, on=["query_id", "split"], how="inner")
        .withColumn("predicted", _likeliest(names, F.col("log_likelihoods")))
        .withColumn("predicted_own", _likeliest(names, own))
        .select(*COLUMNS)
    )


def by_language(outcomes: pd.DataFrame, labels: Sequence[str]) -> dict[str, LanguageOutcome]:
    """The outcomes of one method and split, by language."""
    return {str(lang): _language_outcome(rows, labels) for lang, rows in outcomes.groupby("lang", sort=True)}


def _likeliest(names: Column, log_likelihoods: Column) -> Column:
    """The first of equals."""
    best = F.array_position(log_likelihoods, F.array_max(log_likelihoods))
    return F.element_at(names, best.cast("int"))


def _language_outcome(rows: pd.DataFrame, labels: Sequence[str]) -> LanguageOutcome:
    rows = rows.sort_values(["seed", "query_id"])  # the same resample is the same queries in every seed
    right = rows[["query_id"]].assign(
        all_labels=rows["gold"] == rows["predicted"], own_labels=rows["gold"] == rows["predicted_own"]
    )
    correct = right.groupby("query_id").mean().sort_index()
    labelled = tuple(
        (seed_rows["gold"].tolist(), seed_rows["predicted"].tolist()) for _, seed_rows in rows.groupby("seed")
    )
    return LanguageOutcome(
        tuple(correct.index),
        np.asarray(correct["all_labels"], dtype=np.float64),
        np.asarray(correct["own_labels"], dtype=np.float64),
        labelled,
        tuple(labels),
    )


def _majority(context: Context, gold: DataFrame) -> DataFrame:
    """Rows of the methods of kind majority."""
    names = [
        name for name, method in context.experiment.methods.items() if isinstance(method, MajorityMethod)
    ]
    counts = context.store.read(CANDIDATES, experiment=context.name).groupBy("label").count().collect()
    order = {label: -position for position, label in enumerate(context.task.labels)}
    counts.sort(key=lambda row: (row["count"], order[row["label"]]), reverse=True)
    by_count = [F.lit(row["label"]) for row in counts]
    own = F.filter(F.array(*by_count), lambda label: F.array_contains("own_labels", label))
    named = gold.where("split <> 'train'").withColumn(
        "method", F.explode(F.array(*[F.lit(name) for name in names]).cast("array<string>"))
    )
    predicted = {"seed": F.lit(0), "predicted": by_count[0], "predicted_own": F.try_element_at(own, F.lit(1))}
    return named.withColumns(predicted).select(*COLUMNS)
