"""The parallel text that the mini models are trained and measured on.

Layout: ``<root>/data/annotated/<lang>/<split>.tsv`` or ``<root>/<lang>/<split>.tsv`` with the columns
``index_id``, ``category`` and ``text`` (tab-separated, Excel quoting). The same ``index_id`` is the same
sentence, a *meaning*, in every language.

Shape suffixes: S sentences, M meanings.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xampler.errors import DataError

POOL_LANG = "eng_Latn"
COLUMNS = ("index_id", "category", "text")


@dataclass(frozen=True)
class ParallelCorpus:
    """One split in all its languages, flat.

    Attributes:
        labels: label names, sorted.
        langs: language codes, sorted.
        texts_S: the sentences, language by language.
        lang_S: index into ``langs``.
        meaning_S: index of the meaning, in ``[0, M)``.
        label_M: index into ``labels``.
    """

    labels: tuple[str, ...]
    langs: tuple[str, ...]
    texts_S: tuple[str, ...]
    lang_S: NDArray[np.int64]
    meaning_S: NDArray[np.int64]
    label_M: NDArray[np.int64]

    def rows_of(self, lang: str) -> NDArray[np.int64]:
        """Row numbers of one language's sentences, in meaning order; empty for a language without them."""
        if lang not in self.langs:
            return np.zeros(0, dtype=np.int64)
        rows = np.flatnonzero(self.lang_S == self.langs.index(lang))
        order: NDArray[np.int64] = rows[np.argsort(self.meaning_S[rows], kind="stable")]
        return order


@dataclass(frozen=True)
class TokenisedSplit:
    """A split with its sentences as token ids, without special tokens."""

    corpus: ParallelCorpus
    ids_S: list[NDArray[np.int32]]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Label of each sentence."""
        return self.corpus.label_M[self.corpus.meaning_S]

    def pool_rows(self) -> NDArray[np.int64]:
        """Rows of the English sentences."""
        return self.corpus.rows_of(POOL_LANG)


def read_corpus(data: Path, split: str) -> ParallelCorpus:
    """Read one split of every language that has it.

    Raises:
        DataError: no such folder, a broken file, or no English in it.
    """
    root = _annotated_root(data)
    tables = {path.parent.name: _read_table(path) for path in sorted(root.glob(f"*/{split}.tsv"))}
    if POOL_LANG not in tables:
        raise DataError(
            f"No {POOL_LANG}/{split}.tsv under {root}; the mini models are built from a SIB-200 folder "
            "(data/annotated/<lang>/train.tsv, dev.tsv, test.tsv). Pass its path with --data."
        )
    return _flatten(tables)


def _annotated_root(data: Path) -> Path:
    if not data.is_dir():
        raise DataError(f"{data} is not a folder; pass the SIB-200 folder with --data.")
    nested = data / "data" / "annotated"
    return nested if nested.is_dir() else data


def _read_table(path: Path) -> dict[str, tuple[str, str]]:
    """``index_id -> (category, text)`` of one file."""
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines, dialect="excel-tab", strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        expected = "expected UTF-8, tab-separated, Excel quoting"
        raise DataError(f"{path} cannot be read ({error}); {expected}.") from error
    if not rows or any(row.get(column) is None for row in rows for column in COLUMNS):
        raise DataError(f"{path} has no rows or misses a value; expected the columns {', '.join(COLUMNS)}.")
    return {row["index_id"]: (row["category"], row["text"].strip()) for row in rows}


def _flatten(tables: dict[str, dict[str, tuple[str, str]]]) -> ParallelCorpus:
    categories: dict[str, str] = {}
    for table in tables.values():
        for index_id, (category, _) in table.items():
            categories.setdefault(index_id, category)
    ids = sorted(categories, key=lambda index_id: (len(index_id), index_id))
    meaning_of = {index_id: number for number, index_id in enumerate(ids)}
    labels = tuple(sorted(set(categories.values())))
    rows = [
        (text, number, meaning_of[index_id])
        for number, table in enumerate(tables.values())
        for index_id, (_, text) in table.items()
    ]
    return ParallelCorpus(
        labels=labels,
        langs=tuple(tables),
        texts_S=tuple(text for text, _, _ in rows),
        lang_S=np.array([number for _, number, _ in rows], dtype=np.int64),
        meaning_S=np.array([meaning for _, _, meaning in rows], dtype=np.int64),
        label_M=np.array([labels.index(categories[index_id]) for index_id in ids], dtype=np.int64),
    )
