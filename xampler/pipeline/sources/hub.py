"""Benchmarks on the Hugging Face hub, or Parquet files exported from it, through ``datasets``."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import datasets

from xampler.errors import DataError
from xampler.pipeline.sources.benchmarks import BenchmarkRow, join_article

HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
Answer = TypeVar("Answer")
MakeRow = Callable[[Mapping[str, Any], str, int], BenchmarkRow]
# Order of the class numbers in the hub's MasakhaNEWS, where a conversion has lost their names.
MASAKHANEWS_LABELS = ("business", "entertainment", "health", "politics", "religion", "sports", "technology")


class HubBenchmark:
    """A data set with one configuration per language.

    ``path`` is an id on the hub or a local folder: a copy of the repository, or one folder of Parquet files
    per language.
    """

    def __init__(self, path: str, revision: str | None, make_row: MakeRow) -> None:
        self._path = path
        self._revision = revision
        self._make_row = make_row
        self._load = cache(self._load_language)
        datasets.disable_progress_bars()

    @property
    def origin(self) -> str:
        return self._path

    def languages(self) -> list[str]:
        """Configurations, or folders of a local export.

        Raises:
            DataError: the hub cannot be reached, or has no such data set.
        """
        if self._is_export():
            return sorted(path.name for path in Path(self._path).iterdir() if path.is_dir())
        names = self._ask(lambda: datasets.get_dataset_config_names(self._path, revision=self._revision))
        return sorted(names)

    def splits_of(self, source_lang: str) -> list[str]:
        loaded = self._load(source_lang)
        return [split for split, name in HUB_SPLITS.items() if name in loaded or split in loaded]

    def read(self, source_lang: str, split: str) -> list[BenchmarkRow]:
        loaded = self._load(source_lang)
        name = HUB_SPLITS[split] if HUB_SPLITS[split] in loaded else split
        source = f"{self._path}/{source_lang}/{name}"
        try:
            rows = [self._make_row(item, source, row) for row, item in enumerate(with_names(loaded[name]), 1)]
        except KeyError as error:
            raise DataError(
                f"{source}: no column {error}; it has {', '.join(loaded[name].column_names)}"
            ) from error
        if not rows:
            raise DataError(f"{source}: empty, no row in this split")
        return rows

    def _is_export(self) -> bool:
        folder = Path(self._path)
        return folder.is_dir() and not (folder / "README.md").is_file()

    def _load_language(self, source_lang: str) -> datasets.DatasetDict:
        if self._is_export():
            return self._ask(lambda: datasets.load_dataset(str(Path(self._path) / source_lang)))
        return self._ask(lambda: datasets.load_dataset(self._path, source_lang, revision=self._revision))

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        try:
            return question()
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError(
                f"{self._path}: the data set cannot be read from the hub ({reason}); check its name and the "
                "network, or give a local folder as root"
            ) from error


def with_names(rows: datasets.Dataset) -> Iterator[dict[str, Any]]:
    """Rows with class numbers replaced by their names."""
    named = {name: kind for name, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)}
    for item in rows:
        yield item | {name: kind.int2str(item[name]) for name, kind in named.items()}


def make_sib200_row(item: Mapping[str, Any], source: str, row: int) -> BenchmarkRow:
    """Columns ``index_id``, ``category`` and ``text``."""
    return BenchmarkRow(item["text"], item["category"], str(item["index_id"]), source, row)


def make_masakhanews_row(form: str) -> MakeRow:
    """Columns ``label`` (or ``category``), ``headline`` and ``text``."""

    def make_row(item: Mapping[str, Any], source: str, row: int) -> BenchmarkRow:
        label = item["category"] if "category" in item else item["label"]
        if isinstance(label, int):
            label = MASAKHANEWS_LABELS[label]
        return BenchmarkRow(join_article(form, item["headline"], item["text"]), label, None, source, row)

    return make_row
