"""What a run leaves for people: a page, a table on the terminal, a summary file."""

from xampler.pipeline.report.data import (
    Difference,
    Example,
    GroupRow,
    LanguageRow,
    MethodNote,
    RegisteredModel,
    ReportData,
    Score,
    ShownDemonstration,
)
from xampler.pipeline.report.page import render_report
from xampler.pipeline.report.reading import read_report
from xampler.pipeline.report.table import accuracy_table, summarise

__all__ = [
    "Difference",
    "Example",
    "GroupRow",
    "LanguageRow",
    "MethodNote",
    "RegisteredModel",
    "ReportData",
    "Score",
    "ShownDemonstration",
    "accuracy_table",
    "read_report",
    "render_report",
    "summarise",
]
