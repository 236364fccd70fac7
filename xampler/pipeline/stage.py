"""Stages, their parts, and the markers that make a rerun skip finished work.

A part of a stage (one recipe, one method; most stages have one part) is done once for each state of
what it depends on: its config, the parts before it, its source files and models. The hash of these is
its fingerprint; ``stage_runs`` holds the fingerprint of what is in the tables.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import xampler
from xampler.core.text import stable_hash
from xampler.errors import DataError
from xampler.pipeline.context import Context
from xampler.pipeline.markers import Marker
from xampler.tables.schema import Table
from xampler.tracking.run import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What running a part came to."""

    rows: int
    prompts_scored: int = 0  # prompts that went through the language model
    metrics: dict[str, float] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)  # JSON that later stages need


@dataclass(frozen=True)
class Part:
    """A stage, or one recipe or method of it."""

    stage: str
    depends: Callable[[], Any]  # JSON-able: config, files, models
    run: Callable[[Run], Outcome]
    before: tuple["Part", ...] = ()
    reads: tuple[Table, ...] = ()
    writes: tuple[Table, ...] = ()
    name: str = ""
    still_there: Callable[[dict[str, Any]], bool] = lambda result: True  # what the result names exists

    @property
    def key(self) -> str:
        """``stage`` or ``stage/name``."""
        return f"{self.stage}/{self.name}" if self.name else self.stage


@dataclass(frozen=True)
class Done:
    """A part that is up to date."""

    key: str
    run_id: str
    seconds: float  # 0 if it was up to date before
    prompts_scored: int
    result: dict[str, Any]


def fingerprint(context: Context, part: Part) -> str:
    """Hash of everything that the part's rows depend on."""
    known = context.fingerprints.get(part.key)
    if known is None:
        before = [fingerprint(context, earlier) for earlier in part.before]
        depends = json.dumps(part.depends(), sort_keys=True, default=str)
        known = stable_hash(xampler.__version__, part.key, depends, *before)
        context.fingerprints[part.key] = known
    return known


def find_done(context: Context, part: Part) -> Done | None:
    """The finished run of the part in its present state, if there is one and its tables still exist."""
    if not all(context.store.exists(table) for table in part.writes):
        return None
    marker = context.markers.find(part.key)
    if marker is None or marker.fingerprint != fingerprint(context, part):
        return None
    return Done(part.key, marker.run_id, 0.0, 0, marker.result) if part.still_there(marker.result) else None


def require_done(context: Context, parts: Sequence[Part]) -> None:
    """Check that these parts and everything before them are up to date.

    Raises:
        DataError: something is not; the message names the command to run.
    """
    for part in parts:
        require_done(context, part.before)
        if find_done(context, part) is None:
            raise DataError(
                f"{part.key} has not been run with this config; run `xampler {part.stage} ...` or "
                "`xampler run ...` with the same files first"
            )


def run_part(context: Context, part: Part) -> Done:
    """Run the part as one MLflow run.

    Raises:
        DataError: something before it is not up to date.
    """
    require_done(context, part.before)
    started = time.monotonic()
    tags = {"xampler.stage": part.stage, "xampler.part": part.name, "xampler.version": xampler.__version__}
    with context.engines.tracker.start_run(context.name, part.key, tags) as run:
        run.log_yaml(context.experiment.model_dump(mode="json"), "config.yaml")
        run.log_yaml(context.task.model_dump(mode="json"), "task.yaml")
        run.log_params({f"version_in.{t.name}": context.store.version(t) for t in part.reads})
        context.markers.drop(part.key, run.run_id)  # from here on its rows may be those of neither state
        outcome = part.run(run)
        seconds = time.monotonic() - started
        run.log_params({f"version_out.{t.name}": context.store.version(t) for t in part.writes})
        run.log_params({"fingerprint": fingerprint(context, part)})
        run.log_metrics(_figures(part, outcome, seconds))
        marker = Marker(fingerprint(context, part), run.run_id, outcome.result)
        context.markers.put(part.key, marker, seconds)
    logger.info(
        "%s: %d rows in %.1f s (%.0f rows/s)", part.key, outcome.rows, seconds, outcome.rows / seconds
    )
    return Done(part.key, run.run_id, seconds, outcome.prompts_scored, outcome.result)


def _figures(part: Part, outcome: Outcome, seconds: float) -> dict[str, float]:
    stage = part.stage
    figures = {
        f"{stage}/rows": outcome.rows,
        f"{stage}/seconds": seconds,
        f"{stage}/rows_per_s": outcome.rows / seconds,
        f"{stage}/prompts_scored": outcome.prompts_scored,
    }
    return figures | {f"{stage}/{name}": value for name, value in outcome.metrics.items()}
