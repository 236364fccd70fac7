"""Data in: benchmarks in their published layouts and the user's own tables, as one DataFrame."""

from xampler.pipeline.sources.config import (
    MasakhanewsSource,
    Selection,
    Sib200Source,
    Source,
    TableColumns,
    TableSource,
    Taxi1500Source,
)
from xampler.pipeline.sources.language_table import load_languages
from xampler.pipeline.sources.read import read_texts
from xampler.pipeline.sources.rows import REJECTED_SCHEMA, TEXTS_SCHEMA, TextsRead

__all__ = [
    "REJECTED_SCHEMA",
    "TEXTS_SCHEMA",
    "MasakhanewsSource",
    "Selection",
    "Sib200Source",
    "Source",
    "TableColumns",
    "TableSource",
    "Taxi1500Source",
    "TextsRead",
    "load_languages",
    "read_texts",
]
