"""`xampler model show`: the lineage of a version on one screen."""

from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from xampler.config import load_config
from xampler.pipeline.context import Environment
from xampler.pipeline.entry import environment_file
from xampler.tracking.lineage import Lineage, SplitMetrics
from xampler.tracking.registry import Version, find_reference
from xampler.tracking.run import Tracker

DECISION = "xampler.promotion."


def show_model(env: Path | None, reference: str) -> RichTable:
    """What the version named by ``reference`` is, and where it comes from.

    Raises:
        TrackingError: there is no such version, or it was registered by something else.
    """
    tracker = Tracker(load_config(Environment, environment_file(env)).tracking)
    version = find_reference(tracker, reference)
    named = f"{version.name} version {version.version}"
    table = RichTable(title=named, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in describe_version(version, Lineage.from_tags(version.tags, named)):
        table.add_row(name, value)
    return table


def describe_version(version: Version, lineage: Lineage) -> list[tuple[str, str]]:
    """(name, value) lines, in the order in which a reader asks."""
    return [
        ("aliases", ", ".join(version.aliases) or "none"),
        ("registered", f"{version.registered_at:%Y-%m-%d %H:%M} UTC, run {version.run_id}"),
        ("decision", _decision(version)),
        ("experiment", f"{lineage.experiment}, method {lineage.method}, task {lineage.task}"),
        ("recipe", f"{lineage.recipe}: {_settings(lineage.recipe_config)}"),
        ("base model", _encoder(lineage)),
        ("scorer", _scorer(lineage)),
        ("pool", f"{lineage.candidates} candidates in {', '.join(lineage.pool_langs)}"),
        *((split, _figures(metrics)) for split, metrics in sorted(lineage.metrics.items())),
        ("tables read", _tables(lineage.table_versions)),
        ("runs", ", ".join(f"{stage} {run_id}" for stage, run_id in lineage.runs.items())),
        ("code", lineage.code),
        ("requires", ", ".join(lineage.requirements)),
    ]


def _decision(version: Version) -> str:
    decided = version.tags.get(f"{DECISION}decision")
    return f"{decided}: {version.tags.get(f'{DECISION}reason')}" if decided else "none yet"


def _settings(config: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in config.items())


def _encoder(lineage: Lineage) -> str:
    named = _at(lineage.encoder, lineage.encoder_revision)
    return f"{named}, id {lineage.encoder_id}, licence {lineage.encoder_licence}"


def _scorer(lineage: Lineage) -> str:
    named = _at(lineage.language_model, lineage.language_model_revision)
    if lineage.adapter is not None:
        named += f" with {_at(lineage.adapter, lineage.adapter_revision)}"
    return f"{named}, id {lineage.scorer_id}, licence {lineage.language_model_licence}"


def _at(model: str, revision: str | None) -> str:
    return f"{model} at {revision}" if revision else model


def _figures(metrics: SplitMetrics) -> str:
    said = (
        f"accuracy {percent(metrics.accuracy)}, macro-F1 {percent(metrics.macro_f1)}; "
        f"{metrics.languages} language{'s' * (metrics.languages > 1)}, {metrics.queries} texts"
    )
    if metrics.gain is None or metrics.share_better is None:
        return said
    return (
        f"{said}; {percent(metrics.gain, signed=True)} over {metrics.base_method}, better in "
        f"{metrics.share_better:.0%} of languages"
    )


def _tables(versions: dict[str, dict[str, int]]) -> str:
    return "; ".join(
        f"{stage}: " + ", ".join(f"{table} {version}" for table, version in read.items())
        for stage, read in versions.items()
        if read
    )


def percent(interval: tuple[float, float, float], *, signed: bool = False) -> str:
    """Shares as ``52.1 (50.0 to 54.1)``."""
    value, low, high = (f"{100 * share + 0.0:{'+' if signed else ''}.1f}" for share in interval)
    return f"{value} ({low} to {high})"
