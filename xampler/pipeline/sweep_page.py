"""A sweep's results for people: a table on the terminal, a page with plots, CSV and JSON."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from rich import box
from rich.table import Table as RichTable

from xampler.core.metrics import Interval
from xampler.pipeline.evaluate import HEADLINE_GROUP
from xampler.pipeline.finish import write_whole
from xampler.pipeline.model_show import percent
from xampler.pipeline.sweep_results import Result, SweepResults

PANEL_INCHES = (6.4, 4.0)
NOTHING = "–"


def results_files(results: SweepResults) -> dict[str, str]:
    """File name -> content: CSV, the same as JSON, and a self-contained page."""
    values = [asdict(result) for result in results.results]
    return {
        "sweep.csv": pd.DataFrame([_flat(result) for result in results.results]).to_csv(index=False),
        "sweep.json": json.dumps(values, ensure_ascii=False, indent=1) + "\n",
        "sweep.html": _page(results),
    }


def write_results(results: SweepResults, folder: Path) -> None:
    """Put the files of :func:`results_files` into ``folder``.

    Raises:
        StoreError: it cannot be written.
    """
    for name, text in results_files(results).items():
        write_whole(folder / name, text)


def sweep_tables(results: SweepResults) -> list[RichTable]:
    """One table a grid, for the terminal."""
    tables = []
    for grid in range(len(results.references)):
        # Lines, not cells, wrap on a narrow screen: figures stay in one piece.
        table = RichTable(
            title=_title(results, grid), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
        )
        header, *rows = _cells(results, grid)
        for name in header:
            table.add_column(name, no_wrap=True)
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def _title(results: SweepResults, grid: int) -> str:
    config = results.sweep.config
    languages = results.results[0].languages
    return (
        f"{config.name}: accuracy on {config.split} texts of {languages} languages, %, 95% intervals; "
        f"change from {results.references[grid]}"
    )


def _cells(results: SweepResults, grid: int) -> list[list[str]]:
    """Header and rows; groups have columns where some are shown beside the mean."""
    base = results.sweep.base.evaluate.base_method
    grouped = bool(results.sweep.config.groups)
    names = ("method", *(("group", "languages") if grouped else ()), "accuracy", f"over {base}", "change")
    return [
        [*results.sweep.config.over[grid], *names],
        *(_row(result, grouped=grouped) for result in _of_grid(results, grid)),
    ]


def _row(result: Result, *, grouped: bool) -> list[str]:
    name = "all others" if result.group_kind == result.group_name else result.group_name
    return [
        *(_say(value) for value in result.values.values()),
        result.method,
        *((name, str(result.languages)) if grouped else ()),
        _points(result.accuracy),
        _points(result.gain, signed=True),
        _points(result.change, signed=True),
    ]


def _of_grid(results: SweepResults, grid: int) -> list[Result]:
    return [result for result in results.results if result.grid == grid]


def _say(value: Any) -> str:  # noqa: ANN401 - any YAML value
    if value is None:
        return "default"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _points(interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return NOTHING
    return percent((interval.value, interval.low, interval.high), signed=signed)


def _page(results: SweepResults) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("xampler.pipeline.report").joinpath("sweep.html").read_text(encoding="utf-8")
    grids = range(len(results.references))
    config = results.sweep.config
    return environment.from_string(source).render(
        name=config.name,
        experiment=results.sweep.base.name,
        split=config.split,
        children=len(results.sweep.points),
        made_on=date.today().isoformat(),
        tables=[(_title(results, grid), _cells(results, grid)) for grid in grids],
        plots=[_plot(results, grid) for grid in grids],
    )


def _plot(results: SweepResults, grid: int) -> str:
    """One panel as SVG: accuracy against the first swept name, a line for each method and other value."""
    # Half a second to import, which no other command should pay.
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    kind = (*results.sweep.config.groups, HEADLINE_GROUP)[0]
    shown = [result for result in _of_grid(results, grid) if result.group_kind == kind]
    name = next(iter(results.sweep.config.over[grid]))
    values = list(dict.fromkeys(_say(result.values[name]) for result in shown))
    figure = Figure(figsize=PANEL_INCHES, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for label, line in _lines(shown, name).items():
        x = [values.index(_say(result.values[name])) for result in line]
        y = [100 * result.accuracy.value for result in line]
        ends = [
            [100 * max(0.0, result.accuracy.value - result.accuracy.low) for result in line],
            [100 * max(0.0, result.accuracy.high - result.accuracy.value) for result in line],
        ]
        axes.errorbar(x, y, yerr=ends, label=label, marker="o", capsize=3)
    axes.set_xticks(range(len(values)), values, rotation=30 if max(map(len, values)) > 6 else 0)
    axes.set_xlabel(name)
    axes.set_ylabel(f"accuracy on {results.sweep.config.split}, %")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize="small")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _lines(shown: Sequence[Result], name: str) -> dict[str, list[Result]]:
    """Label -> results of one method, group and choice of the other swept values, in the sweep's order."""
    lines: dict[str, list[Result]] = {}
    for result in shown:
        others = [f"{other} {_say(value)}" for other, value in result.values.items() if other != name]
        group = [] if result.group_kind == result.group_name else [result.group_name]
        lines.setdefault(", ".join([result.method, *others, *group]), []).append(result)
    return lines


def _flat(result: Result) -> dict[str, Any]:
    """One row of the CSV."""
    row: dict[str, Any] = {
        "child": result.child,
        **{f"over.{name}": value for name, value in result.values.items()},
        "method": result.method,
        "group_kind": result.group_kind,
        "group_name": result.group_name,
        "languages": result.languages,
        "texts": result.texts,
    }
    for name in ("accuracy", "gain", "change"):
        interval: Interval | None = getattr(result, name)
        ends = {name: "value", f"{name}_low": "low", f"{name}_high": "high"}
        row |= {column: getattr(interval, end) if interval else None for column, end in ends.items()}
    return row
