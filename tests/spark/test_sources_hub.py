"""Data sets through ``datasets``: Parquet files as the hub has them, without the hub."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import pytest
from pyspark.sql import SparkSession

from xampler.core.task import Task
from xampler.errors import DataError
from xampler.pipeline.sources import (
    MasakhanewsSource,
    Selection,
    Sib200Source,
    TextsRead,
    load_languages,
    read_texts,
)

pytestmark = pytest.mark.spark

CLASSES = ("business", "entertainment", "health", "politics", "religion", "sports", "technology")
TASK = Task(name="news", labels=CLASSES)
SENTENCES = {"index_id": [7, 8], "category": ["sports", "health"], "text": ["They won.", "Wash hands."]}
ARTICLES = {"label": [5, 2], "headline": ["Goal", "Soap"], "text": ["They won.", "Wash."], "url": ["", ""]}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_export(
    root: Path,
    source_lang: str,
    splits: Sequence[str],
    columns: Mapping[str, object],
    **kinds: object,
) -> None:
    """``<root>/<language>/<split>-00000-of-00001.parquet``."""
    (root / source_lang).mkdir(parents=True)
    for split in splits:
        rows = datasets.Dataset.from_dict(dict(columns))
        for column, kind in kinds.items():
            rows = rows.cast_column(column, kind)
        rows.to_parquet(str(root / source_lang / f"{split}-00000-of-00001.parquet"))


def read(spark: SparkSession, source: Sib200Source | MasakhanewsSource, selection: Selection) -> TextsRead:
    return read_texts(spark, source, selection, TASK, load_languages())


def test_sib200_export(spark: SparkSession, tmp_path: Path) -> None:
    root = tmp_path / "export"
    write_export(root, "eng_Latn", ("train", "validation", "test"), SENTENCES)
    write_export(root, "swh_Latn", ("test",), SENTENCES)
    source = Sib200Source(format="sib200", hub=str(root))
    found = read(spark, source, Selection(train=("eng_Latn",), dev="all", test="all"))
    rows = found.texts.select("lang", "split", "text", "label", "parallel_id", "row").collect()
    assert {(row["lang"], row["split"]) for row in rows} == {
        ("eng_Latn", "train"),
        ("eng_Latn", "dev"),
        ("eng_Latn", "test"),
        ("swh_Latn", "test"),
    }
    assert {tuple(row)[2:] for row in rows} == {
        ("They won.", "sports", "7", 1),
        ("Wash hands.", "health", "8", 2),
    }
    with pytest.raises(DataError, match="language swh_Latn has no train split"):
        read(spark, source, Selection(train=("swh_Latn",)))


def test_repository_with_configurations(spark: SparkSession, tmp_path: Path) -> None:
    root = tmp_path / "repository"
    write_export(root / "data", "eng_Latn", ("validation",), SENTENCES)
    (root / "README.md").write_text(
        "---\nconfigs:\n- config_name: eng_Latn\n  data_files:\n  - split: validation\n"
        "    path: data/eng_Latn/validation-*.parquet\n---\n",
        encoding="utf-8",
    )
    found = read(spark, Sib200Source(format="sib200", hub=str(root)), Selection(dev="all"))
    assert {row["source"] for row in found.texts.collect()} == {f"{root}/eng_Latn/validation"}


@pytest.mark.parametrize("kind", [datasets.Value("int64"), datasets.ClassLabel(names=list(CLASSES))])
def test_masakhanews_class_numbers_become_names(spark: SparkSession, tmp_path: Path, kind: object) -> None:
    root = tmp_path / "export"
    write_export(root, "swa", ("test",), ARTICLES, label=kind)
    source = MasakhanewsSource(format="masakhanews", hub=str(root))
    found = read(spark, source, Selection(test="all"))
    rows = found.texts.select("lang", "source_lang", "text", "label").collect()
    assert {tuple(row) for row in rows} == {
        ("swh_Latn", "swa", "Goal They won.", "sports"),
        ("swh_Latn", "swa", "Soap Wash.", "health"),
    }


def test_missing_column_is_one_message(spark: SparkSession, tmp_path: Path) -> None:
    root = tmp_path / "export"
    write_export(root, "eng_Latn", ("test",), {"text": ["They won."]})
    with pytest.raises(DataError, match="no column 'category'; it has text"):
        read(spark, Sib200Source(format="sib200", hub=str(root)), Selection(test="all"))


def test_unreachable_hub_is_one_message(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"nobody/nothing: the data set cannot be read .*local folder as root"
    ):
        read(spark, Sib200Source(format="sib200", hub="nobody/nothing"), Selection(test="all"))
