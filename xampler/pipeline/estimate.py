"""What scoring will cost: prompts and tokens still to do, and seconds by a short calibration."""

import logging
import math
import os
import time
from dataclasses import dataclass

from xampler.models.build import load_language_model
from xampler.pipeline.context import Context
from xampler.pipeline.prompts import ROWS_PER_CALL, chunk_of, missing_work, prompt_plan, score_rows
from xampler.pipeline.score import one_shot_work, score_part
from xampler.pipeline.stage import require_done
from xampler.tables.schema import SCORES

logger = logging.getLogger(__name__)

CALIBRATION_SECONDS = 20.0


@dataclass(frozen=True)
class Estimate:
    """Cost of the prompts that no run has scored yet."""

    prompts: int
    tokens: float  # of the prompts, extrapolated
    tokens_shared: float  # of these, not computed again
    seconds: float  # on all workers at once
    workers: int  # as many as Spark runs tasks
    device: str
    calibrated_on: int  # prompts


def estimate_scoring(context: Context, calibration_seconds: float = CALIBRATION_SECONDS) -> Estimate:
    """Score some of the missing pairs on this machine, keep nothing, and extrapolate.

    Raises:
        DataError: pairs have not been proposed.
        ModelError: the language model cannot be had.
    """
    require_done(context, score_part(context).before)
    missing = missing_work(context, SCORES, one_shot_work(context)).persist()
    try:
        total = missing.count()
        if not total:
            return Estimate(0, 0, 0, 0, 0, "none", 0)
        # A chunk as `score` cuts it, so that as much is shared as there.
        chunk, _ = chunk_of(math.ceil(total / context.experiment.rows_per_commit))
        rows = missing.where(chunk == 0).orderBy("demonstration_ids").toPandas()
    finally:
        missing.unpersist()
    workers = context.spark.sparkContext.defaultParallelism
    plan = prompt_plan(context)
    model = load_language_model(plan.language_model)
    score_rows(rows.head(8), plan, model)  # the first call pays for what later ones find ready
    done, tokens, shared, seconds = 0, 0, 0, 0.0
    step = 64
    while done < len(rows) and seconds < calibration_seconds:
        block = rows.iloc[done : done + step]
        started = time.monotonic()
        score_rows(block, plan, model)
        seconds += time.monotonic() - started
        tokens += model.statistics.tokens
        shared += model.statistics.tokens_shared
        done += len(block)
        step = min(2 * step, ROWS_PER_CALL)
    scale = total / done
    return Estimate(
        prompts=total,
        tokens=tokens * scale,
        tokens_shared=shared * scale,
        seconds=seconds * scale / workers,
        workers=workers,
        device=_device_name(model.model.device.type),
        calibrated_on=done,
    )


def say_estimate(estimate: Estimate) -> str:
    """The estimate in a few lines."""
    if not estimate.prompts:
        return "nothing to score: every pair has its score"
    return (
        f"prompts to score: {estimate.prompts:,}\n"
        f"tokens: {estimate.tokens:,.0f}, of which {estimate.tokens_shared:,.0f} are shared\n"
        f"seconds: {estimate.seconds:,.0f} on {estimate.workers} x {estimate.device} "
        f"(calibrated on {estimate.calibrated_on:,} prompts)"
    )


def _device_name(kind: str) -> str:
    if kind == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    return f"{kind} with {os.environ.get('OMP_NUM_THREADS', 'all')} threads"
