"""Sweep: one experiment under several values, as children of one MLflow run.

Children share every row that does not depend on the swept value: judgements and predictions by their
keys, the rest by copies of what another experiment finished (``sweep_reuse``).
"""

import logging
from dataclasses import replace

from xampler.errors import XamplerError
from xampler.pipeline.context import Context, Engines
from xampler.pipeline.evaluate import evaluate_part
from xampler.pipeline.experiment import load_task
from xampler.pipeline.plan import RunSummary, needed_for, run_parts
from xampler.pipeline.sweep_config import Point, Sweep
from xampler.pipeline.sweep_page import results_files
from xampler.pipeline.sweep_results import SweepResults, read_results
from xampler.pipeline.sweep_reuse import adopt_finished
from xampler.tables.schema import METRICS_BY_GROUP
from xampler.tracking.run import Run

SWEEP_TAG, CHILD_TAG = "xampler.sweep", "xampler.sweep_child"

logger = logging.getLogger(__name__)


def run_sweep(engines: Engines, sweep: Sweep) -> SweepResults:
    """Run every child that is not up to date; a killed sweep goes on where it was, in the same run.

    Raises:
        XamplerError: a child cannot be run; the message names it.
    """
    name = sweep.config.name
    with engines.tracker.resume_run(name, sweep.title, {SWEEP_TAG: sweep.id}) as run:
        run.log_yaml(sweep.config.model_dump(mode="json"), "sweep.yaml")
        nested = replace(engines, tracker=engines.tracker.beneath(name, run))
        scored = sum(_run_child(nested, sweep, point).prompts_scored for point in sweep.points)
        contexts = [_context(engines, point) for point in sweep.points]
        results = read_results(sweep, contexts, scored)
        run.log_metrics({"sweep/children": len(sweep.points), "sweep/prompts_scored": scored})
        for file, text in results_files(results).items():
            run.log_text(text, file)
    return results


def _run_child(engines: Engines, sweep: Sweep, point: Point) -> RunSummary:
    child = point.experiment.name
    logger.info("%s: child %s", sweep.config.name, child)
    with engines.tracker.resume_run(child, child, {CHILD_TAG: child}) as run:
        run.log_params({f"over.{name}": value for name, value in point.values.items()})
        context = _context(replace(engines, tracker=engines.tracker.beneath(sweep.config.name, run)), point)
        parts = needed_for(evaluate_part(context))
        try:
            adopt_finished(context, parts[:-1])  # figures are a child's own, of its own rows
            done = run_parts(context, parts)
        except XamplerError as error:
            raise type(error)(f"child {child}: {error}") from error
        _log_accuracies(context, sweep, run)
    return done


def _log_accuracies(context: Context, sweep: Sweep, run: Run) -> None:
    means = context.store.read(METRICS_BY_GROUP, experiment=context.name, split=sweep.config.split)
    rows = means.where("group_kind IN ('all', 'non_pool')").collect()
    run.log_metrics(
        {f"eval/accuracy_{row['group_kind']}/{row['split']}/{row['method']}": row["accuracy"] for row in rows}
    )


def _context(engines: Engines, point: Point) -> Context:
    return Context(engines, point.experiment, load_task(point.experiment.task))
