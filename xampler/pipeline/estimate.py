"""What scoring will cost: prompts and tokens still to do, and seconds by a short calibration."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import pandas as pd
from pyspark.sql import functions as F

from xampler.models.build import load_language_model
from xampler.pipeline.context import Context
from xampler.pipeline.prompts import (
    ROWS_PER_CALL,
    PromptPlan,
    lay_out,
    missing_work,
    prompt_plan,
    score_rows,
)
from xampler.pipeline.score import one_shot_work, score_part
from xampler.pipeline.stage import require_done
from xampler.pipeline.task_gpu import gpu_tasks_at_once, take_task_gpu, task_gpus, tasks_at_once
from xampler.tables.schema import SCORES

CALIBRATION_SECONDS = 20.0


@dataclass(frozen=True)
class Estimate:
    """Cost of the prompts that no run has scored yet."""

    prompts: int
    tokens: float  # of the prompts, extrapolated
    tokens_shared: float  # of these, not computed again
    seconds: float  # on all workers at once
    workers: int  # tasks that Spark runs at once; of those that share a GPU, one
    device: str
    calibrated_on: int  # prompts
    tasks_share_gpu: bool = False  # all tasks of a host, as Spark hands out no GPUs


@dataclass(frozen=True)
class Measured:
    """What scoring some prompts took in one task."""

    prompts: int
    tokens: int
    tokens_shared: int
    seconds: float
    device: str
    on_gpu: bool
    gpu_given: bool  # by Spark


_MEASURED_SCHEMA = (
    "prompts int, tokens long, tokens_shared long, seconds double, device string, on_gpu boolean, "
    "gpu_given boolean"
)


def estimate_scoring(context: Context, calibration_seconds: float = CALIBRATION_SECONDS) -> Estimate:
    """Score some of the missing pairs in a Spark task, keep nothing, and extrapolate.

    Raises:
        DataError: pairs have not been proposed.
        ModelError: the language model cannot be had.
        SetupError: the task cannot use the GPU that Spark gave it.
    """
    require_done(context, score_part(context).before)
    missing = missing_work(context, SCORES, one_shot_work(context)).persist()
    try:
        layout = lay_out(missing, context.experiment.rows_per_commit)
        if not layout.rows:
            return Estimate(0, 0, 0, 0, 0, "none", 0)
        # A chunk as `score` cuts it, so that as much is shared as there; some can be empty.
        [[first]] = missing.agg(F.min(layout.chunk)).collect()
        rows = missing.where(layout.chunk == first).coalesce(1).sortWithinPartitions("demonstration_ids")
        # In a task: the driver's device can be another one than the tasks'.
        calibrate = calibrator(prompt_plan(context), calibration_seconds)
        [row] = rows.mapInPandas(calibrate, _MEASURED_SCHEMA).collect()
    finally:
        missing.unpersist()
    spark = context.spark.sparkContext
    return extrapolate(Measured(**row.asDict()), layout.rows, tasks_at_once(spark), gpu_tasks_at_once(spark))


def calibrator(
    plan: PromptPlan, seconds: float
) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """A task over at least one row: scores its first rows for about ``seconds``, gives one Measured."""

    def calibrate(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        take_task_gpu()
        rows = pd.concat(batches, ignore_index=True)
        yield pd.DataFrame([asdict(_measure(rows, plan, seconds))])

    return calibrate


def _measure(rows: pd.DataFrame, plan: PromptPlan, limit: float) -> Measured:
    model = load_language_model(plan.language_model)
    score_rows(rows.head(8), plan, model)  # the first call pays for what later ones find ready
    done, tokens, shared, seconds = 0, 0, 0, 0.0
    step = 64
    while done < len(rows) and (not done or seconds < limit):
        block = rows.iloc[done : done + step]
        started = time.monotonic()
        score_rows(block, plan, model)
        seconds += time.monotonic() - started
        tokens += model.statistics.tokens
        shared += model.statistics.tokens_shared
        done += len(block)
        step = min(2 * step, ROWS_PER_CALL)
    kind = model.model.device.type
    return Measured(
        done, tokens, shared, seconds, _device_name(kind), on_gpu=kind == "cuda", gpu_given=bool(task_gpus())
    )


def extrapolate(measured: Measured, total: int, tasks: int, gpu_tasks: int) -> Estimate:
    """From the prompts of one task to ``total`` prompts on ``tasks`` at once, ``gpu_tasks`` with GPUs.

    GPUs that Spark does not hand out count once: how many hosts have one is not known.
    """
    scale = total / measured.prompts
    workers = tasks if not measured.on_gpu else gpu_tasks if measured.gpu_given else 1
    return Estimate(
        prompts=total,
        tokens=measured.tokens * scale,
        tokens_shared=measured.tokens_shared * scale,
        seconds=measured.seconds * scale / workers,
        workers=workers,
        device=measured.device,
        calibrated_on=measured.prompts,
        tasks_share_gpu=measured.on_gpu and not measured.gpu_given and tasks > 1,
    )


def say_estimate(estimate: Estimate) -> str:
    """The estimate in a few lines."""
    if not estimate.prompts:
        return "nothing to score: every pair has its score"
    shared = (
        "\nall tasks of a host share its first GPU, counted once here: this Spark hands out no GPUs"
        if estimate.tasks_share_gpu
        else ""
    )
    return (
        f"prompts to score: {estimate.prompts:,}\n"
        f"tokens: {estimate.tokens:,.0f}, of which {estimate.tokens_shared:,.0f} are shared\n"
        f"seconds: {estimate.seconds:,.0f} on {estimate.workers} x {estimate.device} "
        f"(calibrated on {estimate.calibrated_on:,} prompts){shared}"
    )


def _device_name(kind: str) -> str:
    if kind == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    return f"{kind} with {os.environ.get('OMP_NUM_THREADS', 'all')} threads"
