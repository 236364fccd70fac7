"""The benchmarks' folders, as published and broken in every way."""

import csv
import io
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from xampler.config import Config, load_config, parse_config
from xampler.core.language import Languages
from xampler.core.task import Task
from xampler.errors import ConfigError, DataError, LanguageCodeError
from xampler.pipeline.sources import (
    MasakhanewsSource,
    Selection,
    Sib200Source,
    Source,
    Taxi1500Source,
    TextsRead,
    delimited,
    load_languages,
    read_texts,
)
from xampler.pipeline.sources.files import source_state

pytestmark = pytest.mark.spark

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY.parent / "shared" / "data"
HEADER = ("index_id", "category", "text")
LABELS = ("travel", "sports", "health")
Reader = Callable[..., TextsRead]


def write_tsv(path: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, "excel-tab", lineterminator="\n").writerows([header, *rows])
    return path


def collect(rows: DataFrame, *columns: str) -> set[tuple[object, ...]]:
    return {tuple(row) for row in rows.select(*columns).collect()}


@pytest.fixture(scope="module")
def languages() -> Languages:
    return load_languages()


@pytest.fixture
def read(spark: SparkSession, languages: Languages) -> Reader:
    """Read with a task of LABELS: ``read(source, test="all")``."""

    def read_source(source: Sib200Source | MasakhanewsSource | Taxi1500Source, **splits: object) -> TextsRead:
        task = Task(name="topics", labels=LABELS)
        selection = parse_config(Selection, splits, "selection")
        return read_texts(spark, source, selection, task, languages)

    return read_source


@pytest.fixture
def sib200(tmp_path: Path) -> Path:
    """English with all splits, Swahili and Chinese with some, in the published layout."""
    root = tmp_path / "sib200"
    annotated = root / "data" / "annotated"
    for split in ("train", "dev", "test"):
        write_tsv(
            annotated / "eng_Latn" / f"{split}.tsv",
            [("1", "travel", f"The {split} train is late."), ("2", "sports", 'They said "goal" twice.')],
        )
    write_tsv(
        annotated / "swh_Latn" / "test.tsv", [("1", "travel", "Treni imechelewa."), ("3", "health", "  ")]
    )
    write_tsv(annotated / "zho_Hans" / "dev.tsv", [("1", "travel", "火车\t晚点\n了。")])
    (annotated / "eng_Latn" / "labels.txt").write_text("travel\nsports\nhealth\n", encoding="utf-8")
    return root


def source_of(root: Path) -> Sib200Source:
    return Sib200Source(format="sib200", root=str(root))


def test_sib200_rows_keep_text_label_and_origin(read: Reader, sib200: Path) -> None:
    found = read(source_of(sib200), train=["eng_Latn"], dev=["zho"])
    assert collect(found.texts, *found.texts.columns) == {
        (
            "eng_Latn",
            "eng_Latn",
            "train",
            "The train train is late.",
            "travel",
            "1",
            "data/annotated/eng_Latn/train.tsv",
            1,
        ),
        (
            "eng_Latn",
            "eng_Latn",
            "train",
            'They said "goal" twice.',
            "sports",
            "2",
            "data/annotated/eng_Latn/train.tsv",
            2,
        ),
        (
            "zho_Hans",
            "zho_Hans",
            "dev",
            "火车\t晚点\n了。",
            "travel",
            "1",
            "data/annotated/zho_Hans/dev.tsv",
            1,
        ),
    }
    assert found.rejected.count() == 0


def test_annotated_folder_itself_is_a_root(read: Reader, sib200: Path) -> None:
    found = read(source_of(sib200 / "data" / "annotated"), test=["eng_Latn"])
    assert collect(found.texts, "source") == {("eng_Latn/test.tsv",)}


def test_folder_of_the_package_is_a_root(read: Reader) -> None:
    with pytest.raises(DataError, match="no folder of a language in it"):
        read(Sib200Source(format="sib200", root="package:core"), test="all")


def test_empty_text_is_rejected_with_reason(read: Reader, sib200: Path) -> None:
    found = read(source_of(sib200), test=["swh_Latn"])
    assert collect(found.texts, "text") == {("Treni imechelewa.",)}
    assert collect(found.rejected, *found.rejected.columns) == {
        ("data/annotated/swh_Latn/test.tsv", 2, "the text is empty", "3\thealth\t  ")
    }


def test_all_takes_languages_with_the_split_and_tells_the_others(
    read: Reader, sib200: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = read(source_of(sib200), test="all")
    assert collect(found.texts, "lang") == {("eng_Latn",), ("swh_Latn",)}
    [warning] = found.warnings
    assert "1 of 3 languages have no test split: zho_Hans" in warning
    assert warning in caplog.messages


def test_named_language_without_the_split_is_an_error(read: Reader, sib200: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(source_of(sib200), test=["eng_Latn", "zho_Hans"])
    message = str(caught.value)
    assert "language zho_Hans has no test split (it has dev)" in message
    assert "languages with one: eng_Latn, swh_Latn" in message


def test_language_that_is_not_there_is_an_error(read: Reader, sib200: Path) -> None:
    with pytest.raises(DataError, match="no language yor_Latn; it has eng_Latn, swh_Latn, zho_Hans"):
        read(source_of(sib200), test=["yor_Latn"])
    with pytest.raises(LanguageCodeError, match="'English' is no language code"):
        read(source_of(sib200), test=["English"])


def test_language_named_twice_is_read_once(read: Reader, sib200: Path) -> None:
    assert read(source_of(sib200), test=["swh", "swa_Latn"]).texts.count() == 1


def test_unlisted_language_is_read_with_a_warning(
    read: Reader, sib200: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tsv(sib200 / "data" / "annotated" / "qqz_Latn" / "test.tsv", [("1", "travel", "Zug")])
    write_tsv(sib200 / "data" / "annotated" / "my notes" / "test.tsv", [("1", "travel", "Zug")])
    with caplog.at_level(logging.WARNING):
        found = read(source_of(sib200), test="all")
    assert ("qqz_Latn",) in collect(found.texts, "lang")
    assert any("qqz_Latn is not in conf/languages.tsv" in message for message in caplog.messages)
    assert any("'my notes' is left out" in message for message in found.warnings)


def test_file_with_byte_order_mark_and_crlf_is_read(read: Reader, sib200: Path) -> None:
    content = "\ufeffindex_id\tcategory\ttext\r\n7\ttravel\tBus\r\n"
    (sib200 / "data/annotated/eng_Latn/test.tsv").write_bytes(content.encode())
    assert collect(read(source_of(sib200), test=["eng"]).texts, "parallel_id", "text") == {("7", "Bus")}


FAULTS = {
    "empty file": (b"", "empty; expected a first line with index_id, category, text"),
    "header only": (b"index_id\tcategory\ttext\n", "empty, no row after the header"),
    "missing column": (
        b"index_id\ttext\n1\tBus\n",
        "no column 'category'; the first line names 'index_id', 'text'",
    ),
    "open quote": (
        b'index_id\tcategory\ttext\n1\ttravel\tBus\n2\ttravel\t"Bus\n3\ttravel\tBus\n',
        "broken quoting in the record at line 3",
    ),
    "text after quote": (
        b'index_id\tcategory\ttext\n1\ttravel\t"Bus" stop\n',
        "broken quoting in the record at line 2",
    ),
    "invalid UTF-8": (
        b"index_id\tcategory\ttext\n1\ttravel\tBus\n2\ttravel\tB\xfcs\n",
        r"line 3 is not valid UTF-8 \(byte 0xfc\)",
    ),
    "too many fields": (
        b"index_id\tcategory\ttext\n1\ttravel\tBus\tstop\n",
        "line 2 has 4 fields, its first line 3",
    ),
    "wrong label": (
        b"index_id\tcategory\ttext\n1\ttourism\tBus\n",
        "row 1 has the label 'tourism'; the labels of task topics are travel, sports, health",
    ),
}


@pytest.mark.parametrize(("content", "said"), FAULTS.values(), ids=FAULTS)
def test_fault_of_a_file_is_one_message(read: Reader, sib200: Path, content: bytes, said: str) -> None:
    (sib200 / "data/annotated/eng_Latn/test.tsv").write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read(source_of(sib200), test="all")
    assert "data/annotated/eng_Latn/test.tsv" in str(caught.value)


def test_open_quote_in_a_huge_file_is_noticed_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "FIELD_LIMIT", 1_000)
    stream = io.StringIO('a\tb\n1\t"' + "x\n" * 2_000, newline="")
    with pytest.raises(DataError, match=r"huge\.tsv: broken quoting in the record at line 2 .*field limit"):
        list(delimited.read_records("huge.tsv", stream, "\t"))


def test_missing_folder_file_and_foreign_layout(read: Reader, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: does not exist"):
        read(source_of(tmp_path / "nowhere"), test="all")
    path = write_tsv(tmp_path / "test.tsv", [])
    with pytest.raises(DataError, match=r"test\.tsv: is a file"):
        read(source_of(path), test="all")
    with pytest.raises(DataError, match=r"expected data/annotated/<language>/<split>\.tsv"):
        read(source_of(tmp_path), test="all")


def test_unreadable_file_is_one_message(read: Reader, sib200: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", deny)  # file modes do not stop root, who may run the tests
    with pytest.raises(DataError, match=r"eng_Latn/test\.tsv: cannot be read \(Permission denied\)"):
        read(source_of(sib200), test=["eng_Latn"])


@pytest.mark.parametrize(
    "values",
    [
        {"format": "sib200"},
        {"format": "sib200", "root": "a", "hub": "b"},
        {"format": "sib200", "rooot": "a"},
        {"format": "sib200", "root": 3},
    ],
)
def test_config_needs_one_origin(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        parse_config(Sib200Source, values, "source")


def test_selection_needs_a_split() -> None:
    with pytest.raises(ConfigError, match="at least one of train, dev and test"):
        parse_config(Selection, {}, "selection")
    with pytest.raises(ConfigError, match="train"):
        parse_config(Selection, {"train": "every"}, "selection")


@pytest.fixture
def masakhanews(tmp_path: Path) -> Path:
    root = tmp_path / "masakhanews"
    header = ("category", "headline", "text", "url")
    article = ("sports", "Late goal", "They won.\nAll sang.", "https://example.org/1")
    write_tsv(root / "eng" / "train_subset.tsv", [article], header)
    write_tsv(root / "eng" / "dev.tsv", [article], header)
    write_tsv(root / "swa" / "test.tsv", [("health", "Dawa", "Dawa mpya.", "")], header)
    return root


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("headline+text", "Late goal They won.\nAll sang."),
        ("headline", "Late goal"),
        ("text", "They won.\nAll sang."),
    ],
)
def test_masakhanews_article(read: Reader, masakhanews: Path, form: str, text: str) -> None:
    values = {"format": "masakhanews", "root": str(masakhanews), "text": form}
    found = read(parse_config(MasakhanewsSource, values, "source"), train=["eng_Latn"])
    assert collect(found.texts, "lang", "source_lang", "text", "label", "parallel_id", "source") == {
        ("eng_Latn", "eng", text, "sports", None, "eng/train_subset.tsv")
    }


def test_masakhanews_codes_and_whole_train_split(read: Reader, masakhanews: Path) -> None:
    source = MasakhanewsSource(format="masakhanews", root=str(masakhanews))
    found = read(source, test=["swh_Latn"])
    assert collect(found.texts, "lang", "source_lang") == {("swh_Latn", "swa")}
    write_tsv(masakhanews / "eng" / "train.tsv", [("sports", "A", "B")], ("category", "headline", "text"))
    assert collect(read(source, train=["eng"]).texts, "source") == {("eng/train.tsv",)}


@pytest.fixture
def taxi1500(tmp_path: Path) -> Path:
    root = tmp_path / "taxi1500"
    write_tsv(root / "labels" / "test.tsv", [("43001001", "travel"), ("43001002", "health")], HEADER[:2])
    write_tsv(
        root / "data" / "eng_Latn" / "test.tsv",
        [("43001002", "health", "A verse."), ("43001003", "travel", "One without label.")],
    )
    write_tsv(root / "data" / "aau_Latn" / "test.tsv", [("43001001", "travel", "Verse.")])
    return root


def test_taxi1500_labels_belong_to_the_verse(read: Reader, taxi1500: Path) -> None:
    found = read(Taxi1500Source(format="taxi1500", root=str(taxi1500)), test="all")
    assert collect(found.texts, "lang", "parallel_id", "label") == {
        ("eng_Latn", "43001002", "health"),
        ("aau_Latn", "43001001", "travel"),
    }
    assert collect(found.rejected, "source", "row", "reason") == {("data/eng_Latn/test.tsv", 2, "no label")}


def test_taxi1500_without_labels_is_an_error(read: Reader, taxi1500: Path) -> None:
    (taxi1500 / "labels" / "test.tsv").unlink()
    with pytest.raises(DataError, match=r"labels/test\.tsv: cannot be read"):
        read(Taxi1500Source(format="taxi1500", root=str(taxi1500)), test="all")


BENCHMARKS = {
    "sib200": {"train": 701, "dev": 20_295, "test": 36_720},
    "masakhanews": {"train": 1_219, "dev": 3_112, "test": 3_217},
    "taxi1500": {"train": 860, "dev": 76_087, "test": 75_145},
}


class AnySource(Config):
    """A config that names its source, as those of the jobs do."""

    source: Source


def write_sample(root: Path, name: str, task: Task) -> dict[str, int]:
    """A benchmark's layout with one text per label; the number of rows by split."""
    codes = {"sib200": "eng_Latn", "masakhanews": "eng", "taxi1500": "eng_Latn"}
    header = ("index_id", "category", "headline", "text")
    for split in ("train", "dev", "test"):
        rows = [
            (str(number), label, "A head", f"A {split} text.") for number, label in enumerate(task.labels)
        ]
        folder = root / "data" / ("annotated" if name == "sib200" else "") / codes[name]
        write_tsv(folder / f"{split}.tsv", rows, header)
        write_tsv(root / "labels" / f"{split}.tsv", [row[:2] for row in rows], header[:2])
    return dict.fromkeys(("train", "dev", "test"), len(task.labels))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_published_data_is_read_whole(
    spark: SparkSession, languages: Languages, name: str, tmp_path: Path
) -> None:
    """All of the data where it is at hand, else a sample in its layout."""
    task = load_config(Task, REPOSITORY / "conf" / "tasks" / f"{name}.yaml")
    root, expected = DATA / name, BENCHMARKS[name]
    if not root.is_dir():
        root, expected = tmp_path, write_sample(tmp_path, name, task)
    selection = parse_config(Selection, {"train": ["eng_Latn"], "dev": "all", "test": "all"}, name)
    given = parse_config(AnySource, {"source": {"format": name, "root": str(root)}}, name)
    found = read_texts(spark, given.source, selection, task, languages)
    assert {row["split"]: row["count"] for row in found.texts.groupBy("split").count().collect()} == expected
    assert found.rejected.count() == 0
    assert {row["label"] for row in found.texts.select("label").distinct().collect()} == set(task.labels)


def test_contents_count_not_times(spark: SparkSession, tmp_path: Path) -> None:
    source = parse_config(Sib200Source, {"format": "sib200", "root": str(tmp_path)}, "source")
    folder = tmp_path / "data" / "annotated" / "eng_Latn"
    file = write_tsv(folder / "train.tsv", [("1", "travel", "A train.")])
    before = source_state(spark, source)
    os.utime(file, ns=(1, 1))
    assert source_state(spark, source) == before
    write_tsv(file, [("1", "sports", "A train.")])
    assert source_state(spark, source) != before
    write_tsv(file, [("1", "travel", "A train.")])
    assert source_state(spark, source) == before
    file.rename(file.with_name("dev.tsv"))
    assert source_state(spark, source) != before
