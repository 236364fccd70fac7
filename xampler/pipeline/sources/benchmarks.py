"""The benchmarks' folders: one file per language and split, small enough for the driver."""

import io
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, Protocol

from xampler.errors import DataError
from xampler.pipeline.sources.config import PACKAGE_PREFIX, SPLITS
from xampler.pipeline.sources.delimited import decode, find_columns, read_records


class BenchmarkRow(NamedTuple):
    """One labelled text; ``label`` is None where the benchmark has none for it."""

    text: str
    label: str | None
    parallel_id: str | None
    source: str
    row: int


class Benchmark(Protocol):
    """A benchmark's texts by language (the codes of its own) and split."""

    @property
    def origin(self) -> str:
        """Where it is read from, for messages."""

    def languages(self) -> list[str]:
        """Codes in order."""

    def splits_of(self, source_lang: str) -> list[str]:
        """The splits that a language has."""

    def read(self, source_lang: str, split: str) -> list[BenchmarkRow]:
        """Rows in order.

        Raises:
            DataError: the file is unreadable or not as published.
        """


class FolderBenchmark:
    """SIB-200: ``<root>/<language>/<split>.tsv`` with ``index_id``, ``category`` and ``text``."""

    inner = "data/annotated"  # below the root of the published repository; the folder itself will do
    columns: tuple[str, ...] = ("index_id", "category", "text")

    def __init__(self, root: str) -> None:
        """Raises:
        DataError: the folder is missing, unreadable or holds no language.
        """
        self.root = find_folder(root)
        try:
            self._folder = self.root / self.inner if (self.root / self.inner).is_dir() else self.root
            folders = sorted(path.name for path in self._folder.iterdir() if path.is_dir())
            self._files = {name: self._find_files(name) for name in folders}
        except OSError as error:
            raise DataError(f"{root}: cannot be read ({error.strerror}); give a readable folder") from error
        self._files = {name: found for name, found in self._files.items() if found}
        if not self._files:
            raise DataError(
                f"{root}: no folder of a language in it; expected {self.inner}/<language>/<split>.tsv with "
                "train, dev or test for <split>"
            )

    @property
    def origin(self) -> str:
        return str(self.root)

    def languages(self) -> list[str]:
        return list(self._files)

    def splits_of(self, source_lang: str) -> list[str]:
        return list(self._files[source_lang])

    def read(self, source_lang: str, split: str) -> list[BenchmarkRow]:
        path = self._files[source_lang][split]
        source = str(path.relative_to(self.root))
        rows = [
            self.make_row(split, fields, source, row)
            for row, fields in enumerate(read_columns(path, self.columns), 1)
        ]
        if not rows:
            raise DataError(f"{path}: empty, no row after the header; take the file from its publisher again")
        return rows

    def make_row(self, split: str, fields: Sequence[str], source: str, row: int) -> BenchmarkRow:
        """A row from the fields of ``columns``."""
        index_id, category, text = fields
        return BenchmarkRow(text, category, index_id, source, row)

    def file_names(self, split: str) -> tuple[str, ...]:
        """Names of a split's file, the preferred one first."""
        return (f"{split}.tsv",)

    def _find_files(self, source_lang: str) -> dict[str, Path]:
        found = {}
        for split in SPLITS:
            paths = (self._folder / source_lang / name for name in self.file_names(split))
            path = next((path for path in paths if path.is_file()), None)
            if path is not None:
                found[split] = path
        return found


class MasakhanewsBenchmark(FolderBenchmark):
    """``category``, ``headline`` and ``text``; English may come with a subset of its train split only."""

    inner = "data"
    columns = ("category", "headline", "text")

    def __init__(self, root: str, text: str) -> None:
        super().__init__(root)
        self._text = text

    def make_row(self, split: str, fields: Sequence[str], source: str, row: int) -> BenchmarkRow:
        category, headline, text = fields
        return BenchmarkRow(join_article(self._text, headline, text), category, None, source, row)

    def file_names(self, split: str) -> tuple[str, ...]:
        return ("train.tsv", "train_subset.tsv") if split == "train" else (f"{split}.tsv",)


class Taxi1500Benchmark(FolderBenchmark):
    """Verses with the labels that ``labels/<split>.tsv`` gives to their ids."""

    inner = "data"
    columns = ("index_id", "text")

    def make_row(self, split: str, fields: Sequence[str], source: str, row: int) -> BenchmarkRow:
        verse, text = fields
        return BenchmarkRow(text, self._labels[split].get(verse), verse, source, row)

    @cached_property
    def _labels(self) -> dict[str, dict[str, str]]:
        """Split -> verse id -> label."""
        splits = {split for found in self._files.values() for split in found}
        return {split: self._read_labels(self.root / "labels" / f"{split}.tsv") for split in splits}

    def _read_labels(self, path: Path) -> dict[str, str]:
        return {verse: label for verse, label in read_columns(path, ("index_id", "category"))}


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[list[str]]:
    """The named columns of a tab-separated file, record by record.

    Raises:
        DataError: the file is missing, unreadable, empty, not UTF-8, lacks a column or is broken.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    records = read_records(str(path), io.StringIO(decode(str(path), content), newline=""), "\t")
    header = next(records, None)
    if header is None:
        raise DataError(f"{path}: empty; expected a first line with {', '.join(columns)}")
    positions = find_columns(str(path), header.fields, columns)
    for line, fields in records:
        if len(fields) != len(header.fields):
            raise DataError(
                f"{path}: line {line} has {len(fields)} fields, its first line {len(header.fields)}; "
                "expected one tab between fields, and quotes around a field with a tab or a line end"
            )
        yield [fields[position] for position in positions]


def find_folder(root: str) -> Path:
    """The folder that a config names.

    Raises:
        DataError: there is none.
    """
    folder = Path(root).expanduser()
    if root.startswith(PACKAGE_PREFIX):
        folder = Path(str(files("xampler").joinpath(root.removeprefix(PACKAGE_PREFIX))))
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder.absolute()}: {found}; give the folder of the data set as root")
    return folder


def join_article(form: str, headline: str, text: str) -> str:
    """The part of an article that stands for it: ``headline+text``, ``headline`` or ``text``."""
    if form == "headline":
        return headline
    return text if form == "text" else f"{headline} {text}"
