"""The same figures in short: a table for the terminal and the summary file."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from xampler.pipeline.report.data import LanguageRow, ReportData, mean_accuracy

MOST_LANGUAGE_ROWS = 30  # above, the terminal shows families


def summarise(data: ReportData) -> dict[str, Any]:
    """The figures that ``--summary`` writes."""
    methods = {}
    for method in data.method_names:
        by_language = {
            row.lang: row.scores[method].accuracy for row in data.languages if method in row.scores
        }
        methods[method] = {"accuracy": data.mean_accuracy(method), "by_language": by_language}
    return {
        "methods": methods,
        "languages": len(data.languages),
        "prompts_scored": data.prompts_scored,
        "seconds": dict(data.seconds),
    }


def accuracy_table(data: ReportData) -> Table:
    """Methods x languages in percent, the mean over the languages last; the best of each row is bold.

    Above MOST_LANGUAGE_ROWS languages, families stand in their place, with their number of languages.
    """
    table = Table(
        title=f"{data.experiment}: accuracy on test texts, %",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    by_family = len(data.languages) > MOST_LANGUAGE_ROWS
    table.add_column("family" if by_family else "language")  # the only column that gives way when it is tight
    for method in data.method_names:
        style = "cyan" if method == data.method else None
        # A long name breaks where it has a hyphen.
        table.add_column(method.replace("-", "-\n"), justify="right", style=style, no_wrap=True)
    pool = [row for row in data.languages if row.lang == data.pool_lang]
    others = [row for row in data.languages if row.lang != data.pool_lang]
    for row in [*pool, *([] if by_family else sorted(others, key=lambda row: row.name))]:
        _add_row(table, data, row.name, [row])
    if by_family:
        for family in sorted({row.family for row in others}):
            members = [row for row in others if row.family == family]
            _add_row(table, data, f"{family} ({len(members)})", members)
    table.add_section()
    if pool and others:
        _add_row(table, data, f"all but {pool[0].name}", others)
    _add_row(table, data, "mean", data.languages)
    return table


def _add_row(table: Table, data: ReportData, name: str, rows: Sequence[LanguageRow]) -> None:
    means = [mean_accuracy(rows, method) for method in data.method_names]
    shown = ["-" if mean is None else f"{mean * 100:.1f}" for mean in means]
    best = max((mean for mean in means if mean is not None), default=None)
    best_shown = None if best is None else f"{best * 100:.1f}"
    named = Text(name, no_wrap=True, overflow="ellipsis")
    table.add_row(named, *[Text(value, style="bold" if value == best_shown else "") for value in shown])
