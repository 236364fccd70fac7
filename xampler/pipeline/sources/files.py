"""The local files behind a source, so that a change to them is noticed."""

import glob
from pathlib import Path

from xampler.pipeline.sources.benchmarks import find_folder
from xampler.pipeline.sources.config import Source, TableSource


def source_files(source: Source) -> list[Path]:
    """All files below a local source, sorted; none for a data set on the hub or in an object store.

    Raises:
        DataError: a benchmark's folder is missing.
    """
    if isinstance(source, TableSource):
        roots = [] if "://" in source.path else _expand(source.path)
    else:
        root = getattr(source, "root", None)
        roots = [] if root is None else [find_folder(root)]
    files = {
        path for root in roots for path in ([root] if root.is_file() else root.rglob("*")) if path.is_file()
    }
    return sorted(files)


def _expand(pattern: str) -> list[Path]:
    return [Path(path) for path in glob.glob(pattern)]  # noqa: PTH207 - Path.glob takes no absolute pattern
