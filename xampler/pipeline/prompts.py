"""The one path on which prompts reach the language model, for ``score`` and ``predict`` alike.

Work is a DataFrame of (key columns of the target table, ``query_text``, ``demonstration_ids``). What
the table holds already is never computed again; the rest is computed and committed in chunks.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pandas as pd
from pyspark import Accumulator, AccumulatorParam, StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from xampler.core.ports import LanguageModel
from xampler.core.prompt import Demonstration, PromptConfig, fit_prompts, prompt_id
from xampler.core.task import Task
from xampler.models.build import LanguageModelConfig, load_language_model, scorer_id
from xampler.pipeline.context import Context
from xampler.pipeline.pool import demonstrations_by_id, read_pool
from xampler.pipeline.task_gpu import take_task_gpu
from xampler.tables.schema import Table

logger = logging.getLogger(__name__)

# Rows handed to the model at once: enough to sort by length and share prefixes in, small for memory.
ROWS_PER_CALL = 2048
TASKS_PER_WORKER = 2
COUNTS = ("tokens", "tokens_computed", "tokens_shared", "tokens_padding")  # of ScoringStatistics


@dataclass(frozen=True)
class PromptPlan:
    """Everything that shapes a prompt, as workers need it."""

    task: Task
    prompt: PromptConfig
    language_model: LanguageModelConfig
    demonstrations: dict[str, Demonstration]


def prompt_keys(context: Context) -> dict[str, str]:
    """The columns of ``scores`` and ``predictions`` that are the same for all rows of an experiment."""
    experiment = context.experiment
    model = experiment.language_model
    return {
        "scorer_id": scorer_id(model),
        "prompt_id": prompt_id(context.task, experiment.prompt, model.max_tokens),
    }


@dataclass(frozen=True)
class Scored:
    """What putting prompts to the language model came to."""

    prompts: int
    figures: dict[str, float]  # of the model's work: tokens, shares, truncations


def score_missing(context: Context, table: Table, work: DataFrame, run_id: str) -> Scored:
    """Put every prompt of ``work`` that ``table`` lacks to the language model.

    Each chunk is one insert-only MERGE: a killed run loses at most one, and two at once write no row
    twice.
    """
    missing = missing_work(context, table, work).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        total = missing.count()
        figures = _score_chunks(context, table, missing, total, run_id) if total else {}
    finally:
        missing.unpersist()
    return Scored(total, figures)


def missing_work(context: Context, table: Table, work: DataFrame) -> DataFrame:
    """The rows of ``work`` that ``table`` lacks, with its key columns."""
    keys = prompt_keys(context)
    keyed = work.select(*[F.lit(value).alias(name) for name, value in keys.items()], *work.columns)
    stored = context.store.read(table, **keys).select(*table.key)
    return keyed.join(stored, on=list(table.key), how="left_anti")


def chunk_of(chunks: int) -> tuple[Column, Column]:
    """Number of a row's chunk, and what rows that travel together have in common.

    Prompts that begin with the same two demonstrations travel together, so that the computation of what
    they share is shared; one alone would leave some tasks with twice the rows of others. Queries without
    any have nothing to share and are spread.
    """
    together = F.when(F.size("demonstration_ids") == 0, F.array("query_id")).otherwise(
        F.slice("demonstration_ids", 1, 2)
    )
    return F.pmod(F.xxhash64(together), F.lit(chunks)), together


def prompt_plan(context: Context) -> PromptPlan:
    """What workers need to make the experiment's prompts."""
    return PromptPlan(
        context.task,
        context.experiment.prompt,
        context.experiment.language_model,
        demonstrations_by_id(read_pool(context), context.task),
    )


def _score_chunks(
    context: Context, table: Table, missing: DataFrame, total: int, run_id: str
) -> dict[str, float]:
    plan = prompt_plan(context)
    chunks = math.ceil(total / context.experiment.rows_per_commit)
    chunk, together = chunk_of(chunks)
    tasks = TASKS_PER_WORKER * context.spark.sparkContext.defaultParallelism
    schema = table.spark_schema()
    dropped = shortened = tokens = 0
    started = time.monotonic()
    counts = context.spark.sparkContext.accumulator(dict.fromkeys(COUNTS, 0), _AddUp())
    with context.engines.progress.track(table.name, total) as advance:
        for number in range(chunks):
            rows = (
                missing.where(chunk == number)
                .repartition(tasks, together)
                .sortWithinPartitions("demonstration_ids")
            )
            scored = rows.mapInPandas(_score_task(plan, run_id, schema, counts), schema).persist()
            [sums] = scored.agg(
                F.count("*").alias("rows"),
                F.sum("demonstrations_dropped").alias("dropped"),
                F.sum("texts_shortened").alias("shortened"),
            ).collect()
            if sums["rows"]:
                context.store.insert_missing(table, scored)
                dropped, shortened = dropped + sums["dropped"], shortened + sums["shortened"]
            scored.unpersist()
            advance(sums["rows"], counts.value["tokens"] - tokens)
            tokens = counts.value["tokens"]
    if dropped or shortened:
        logger.warning(
            "%s: prompts too long: %d demonstrations dropped, %d texts shortened",
            table.name,
            dropped,
            shortened,
        )
    return {
        **_shares(counts.value, time.monotonic() - started),
        "demonstrations_dropped": dropped,
        "texts_shortened": shortened,
    }


def _shares(counts: dict[str, int], seconds: float) -> dict[str, float]:
    """Counts of tokens, and what they say of the work."""
    computed = counts["tokens_computed"]
    return {
        **counts,
        "tokens_per_s": counts["tokens"] / seconds,
        "prefix_hit_rate": counts["tokens_shared"] / max(1, counts["tokens"]),
        "padding_share": counts["tokens_padding"] / max(1, computed),
    }


class _AddUp(AccumulatorParam[dict[str, int]]):
    """Sums by name. A task that Spark repeats is counted again."""

    def zero(self, value: dict[str, int]) -> dict[str, int]:
        return dict.fromkeys(value, 0)

    def addInPlace(self, value1: dict[str, int], value2: dict[str, int]) -> dict[str, int]:  # noqa: N802
        return {name: value1[name] + value2[name] for name in value1}


def _score_task(
    plan: PromptPlan, run_id: str, schema: StructType, counts: Accumulator[dict[str, int]]
) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    names = schema.names

    def score_task(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        take_task_gpu()
        model = load_language_model(plan.language_model)  # cached: once per worker process
        for rows in regroup(batches, ROWS_PER_CALL):
            scored = score_rows(rows, plan, model).assign(run_id=run_id)[names]
            counts.add({name: getattr(model.statistics, name) for name in COUNTS})
            yield scored

    return score_task


def score_rows(rows: pd.DataFrame, plan: PromptPlan, model: LanguageModel) -> pd.DataFrame:
    """The rows with ``log_likelihoods`` [labels] in nats, ``demonstrations_dropped``, ``texts_shortened``."""
    shown = [[plan.demonstrations[i] for i in ids] for ids in rows["demonstration_ids"]]
    fitted = fit_prompts(plan.task, rows["query_text"].tolist(), shown, model, plan.prompt)
    log_likelihood_PL = model.score_pieces([prompt.pieces for prompt in fitted], plan.task.label_words)
    return rows.assign(
        log_likelihoods=list(log_likelihood_PL),
        demonstrations_dropped=[prompt.demonstrations_dropped for prompt in fitted],
        texts_shortened=[prompt.texts_shortened for prompt in fitted],
    )


def regroup(batches: Iterable[pd.DataFrame], rows: int) -> Iterator[pd.DataFrame]:
    """Small Arrow batches joined into frames of about ``rows`` rows; empty ones are left out."""
    waiting: list[pd.DataFrame] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        if count >= rows:
            yield pd.concat(waiting, ignore_index=True)
            waiting, count = [], 0
    if count:
        yield pd.concat(waiting, ignore_index=True)
