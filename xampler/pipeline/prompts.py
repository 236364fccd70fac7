"""The one path on which prompts reach the language model, for ``score`` and ``predict`` alike.

Work is a DataFrame of (key columns of the target table, ``query_text``, ``demonstration_ids``). What
the table holds already is never computed again; the rest is computed and committed in chunks.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import pandas as pd
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from xampler.core.ports import LanguageModel
from xampler.core.prompt import Demonstration, PromptConfig, fit_prompts, prompt_id
from xampler.core.task import Task
from xampler.models.build import LanguageModelConfig, load_language_model, scorer_id
from xampler.pipeline.context import Context, Engines
from xampler.pipeline.model_work import Counts, Shown, add_counts, start_counts
from xampler.pipeline.pool import demonstrations_by_id, read_pool
from xampler.pipeline.task_gpu import take_task_gpu, tasks_at_once
from xampler.pipeline.worker import keep_loaded
from xampler.tables.schema import Table

logger = logging.getLogger(__name__)

# Rows handed to the model at once: enough to sort by length and share prefixes in, small for memory.
ROWS_PER_CALL = 2048
TRUNCATIONS = ("demonstrations_dropped", "texts_shortened")  # of FittedPrompt


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
        layout = lay_out(missing, context.experiment.rows_per_commit)
        figures = _score_chunks(context, table, missing, layout, run_id) if layout.rows else {}
    finally:
        missing.unpersist()
    return Scored(layout.rows, figures)


def missing_work(context: Context, table: Table, work: DataFrame) -> DataFrame:
    """The rows of ``work`` that ``table`` lacks, with its key columns."""
    keys = prompt_keys(context)
    keyed = work.select(*[F.lit(value).alias(name) for name, value in keys.items()], *work.columns)
    stored = context.store.read(table, **keys).select(*table.key)
    return keyed.join(stored, on=list(table.key), how="left_anti")


@dataclass(frozen=True)
class Layout:
    """In which chunk a row of work is computed, and which rows travel together."""

    rows: int
    chunks: int
    chunk: Column  # 0 to chunks - 1
    together: Column  # equal where rows belong into one task


def lay_out(missing: DataFrame, rows_per_commit: int) -> Layout:
    """Chunks of about ``rows_per_commit`` rows, cut so that what may share computation travels together.

    Prompts that begin with the same two demonstrations do; one alone would leave some tasks with twice the
    rows of others. Where they are more than one call takes, as where nothing like the queries was found, they
    are parted. Queries without any have nothing to share and are spread.
    """
    together = F.when(F.size("demonstration_ids") == 0, F.array("query_id")).otherwise(
        F.slice("demonstration_ids", 1, 2)
    )
    group = F.xxhash64(together)
    large = F.when(F.col("count") > ROWS_PER_CALL, F.struct("group", "count"))
    groups = missing.groupBy(group.alias("group")).count()
    [found] = groups.agg(F.sum("count").alias("rows"), F.collect_list(large).alias("large")).collect()
    rows = found["rows"] or 0
    chunks = max(1, math.ceil(rows / rows_per_commit))
    parts = {one["group"]: math.ceil(one["count"] / ROWS_PER_CALL) for one in found["large"]}
    if parts:
        parts_of = F.create_map(*map(F.lit, chain.from_iterable(parts.items())))
        part = F.pmod(F.xxhash64("query_id"), F.coalesce(parts_of[group], F.lit(1)))
        together = F.array_append(together, part.cast("string"))
    return Layout(rows, chunks, F.pmod(F.xxhash64(together), F.lit(chunks)), together)


def prompt_plan(context: Context) -> PromptPlan:
    """What workers need to make the experiment's prompts."""
    return PromptPlan(
        context.task,
        context.experiment.prompt,
        context.experiment.language_model,
        demonstrations_by_id(read_pool(context), context.task),
    )


def task_count(rows: int, slots: int) -> int:
    """Into how many tasks to part a chunk of about ``rows`` rows where ``slots`` tasks run at once.

    As many as keep all slots at work, and a multiple of that as long as a task gets ROWS_PER_CALL rows, so
    that none waits long for another and what is done shows: fewer rows fill no batch and begin alike less
    often. At least 1, and no more than rows.
    """
    rounds = max(1, rows // (slots * ROWS_PER_CALL))
    return max(1, min(rows, rounds * slots))


def _score_chunks(
    context: Context, table: Table, missing: DataFrame, layout: Layout, run_id: str
) -> dict[str, float]:
    spark = context.spark.sparkContext
    schema = table.spark_schema()
    counts = start_counts(spark)
    score_task = _score_task(prompt_plan(context), run_id, schema, counts)

    def score(number: int) -> DataFrame:
        tasks = task_count(math.ceil(layout.rows / layout.chunks), tasks_at_once(spark))
        rows = missing.where(layout.chunk == number).repartition(tasks, layout.together)
        return rows.sortWithinPartitions("demonstration_ids").mapInPandas(score_task, schema)

    return commit_chunks(context.engines, table, map(score, range(layout.chunks)), layout.rows, counts)


def commit_chunks(
    engines: Engines, table: Table, chunks: Iterable[DataFrame], total: int, counts: Counts
) -> dict[str, float]:
    """Compute each chunk once and insert what ``table`` lacks of it; warn of what prompts lost.

    Args:
        chunks: the columns of ``table`` and TRUNCATIONS.
        total: rows of all chunks.
        counts: what computing them adds to.

    Returns:
        The model's work: tokens, tokens per second, shares in [0, 1], truncations.
    """
    lost = dict.fromkeys(TRUNCATIONS, 0)
    rows = 0
    with engines.progress.track(table.name, total) as advance:
        shown = Shown(advance, counts, total)
        for chunk in chunks:
            computed = chunk.persist()
            sums = [F.sum(name).alias(name) for name in TRUNCATIONS]
            with shown.meanwhile():
                [found] = computed.agg(F.count("*").alias("rows"), *sums).collect()
            if found["rows"]:
                engines.store.insert_missing(table, computed.select(*table.column_names))
                lost = {name: lost[name] + found[name] for name in TRUNCATIONS}
            computed.unpersist()
            rows += found["rows"]
            shown.show(rows, sum(lost.values()))
    if any(lost.values()):
        logger.warning(
            "%s: prompts too long: %d demonstrations dropped, %d texts shortened",
            table.name,
            *lost.values(),
        )
    return {**shown.figures(), **lost}


def _score_task(
    plan: PromptPlan, run_id: str, schema: StructType, counts: Counts
) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    names = schema.names

    def score_task(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        take_task_gpu()
        model = keep_loaded(load_language_model, plan.language_model)
        for rows in regroup(batches, ROWS_PER_CALL):
            started = time.perf_counter()
            scored = score_rows(rows, plan, model)
            add_counts(counts, model.statistics, time.perf_counter() - started)
            yield scored.assign(run_id=run_id)[names]

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
    """Arrow batches of any size as frames of ``rows`` rows, in their order; the last one may be smaller."""
    waiting: list[pd.DataFrame] = []
    missing = rows
    for batch in batches:
        rest = batch
        while len(rest) >= missing:
            yield pd.concat([*waiting, rest.iloc[:missing]], ignore_index=True)
            rest = rest.iloc[missing:]
            waiting, missing = [], rows
        if len(rest):
            waiting.append(rest)
            missing -= len(rest)
    if waiting:
        yield pd.concat(waiting, ignore_index=True)
