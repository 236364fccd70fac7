"""The user's own data: every kind of file, and what is wrong with rows and with files."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from xampler.config import parse_config
from xampler.core.language import Languages
from xampler.core.task import Task
from xampler.errors import ConfigError, DataError, LanguageCodeError
from xampler.pipeline.sources import Selection, TableSource, TextsRead, load_languages, read_texts
from xampler.pipeline.sources.files import source_state

pytestmark = pytest.mark.spark

COLUMNS = {"text": "body", "lang": "code", "label": "topic", "split": "part", "id": "doc"}
HEADER = ("doc", "body", "code", "topic", "part")
ROWS = (
    ("a", "The bus is late.", "eng_Latn", "travel", "train"),
    ("b", 'He said "goal",\nand\tran.', "eng", "sports", "train"),
    ("a", "Basi limechelewa.", "swa", "travel", "test"),
    ("c", "متأخر", "arb_Arab", "travel", "test"),
)
TEXTS = {
    ("eng_Latn", "eng_Latn", "train", "The bus is late.", "travel", "a"),
    ("eng_Latn", "eng", "train", 'He said "goal",\nand\tran.', "sports", "b"),
    ("swh_Latn", "swa", "test", "Basi limechelewa.", "travel", "a"),
    ("arb_Arab", "arb_Arab", "test", "متأخر", "travel", "c"),
}
TEXT_COLUMNS = ("lang", "source_lang", "split", "text", "label", "parallel_id")
KINDS = ("tsv", "csv", "jsonl", "parquet", "delta")
Reader = Callable[..., TextsRead]


@pytest.fixture(scope="module")
def languages() -> Languages:
    return load_languages()


@pytest.fixture
def read(spark: SparkSession, languages: Languages) -> Reader:
    """Read a table source: ``read(path, kind, train=..., test=..., columns=..., lang=...)``."""

    def read_source(path: Path | str, kind: str, **values: object) -> TextsRead:
        splits: dict[str, object] = {
            split: values.pop(split) for split in ("train", "dev", "test") if split in values
        }
        given: dict[str, object] = {
            "format": "table",
            "path": str(path),
            "kind": kind,
            "columns": COLUMNS,
        } | values
        source = parse_config(TableSource, given, "source")
        selection = parse_config(Selection, splits or {"test": "all"}, "selection")
        return read_texts(
            spark, source, selection, Task(name="topics", labels=("travel", "sports")), languages
        )

    return read_source


def render(kind: str, rows: Sequence[Sequence[str | None]], header: Sequence[str] = HEADER) -> bytes:
    """The content of a tsv, csv or jsonl file."""
    if kind == "jsonl":
        lines = [json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False) for row in rows]
        return "".join(f"{line}\n" for line in lines).encode()
    stream = io.StringIO(newline="")
    delimiter = "\t" if kind == "tsv" else ","
    csv.writer(stream, delimiter=delimiter, lineterminator="\n").writerows([header, *rows])
    return stream.getvalue().encode()


def write_table(
    spark: SparkSession, path: Path, kind: str, rows: Sequence[Sequence[str | None]] = ROWS
) -> Path:
    """A file, or for parquet and delta a folder."""
    if kind in ("parquet", "delta"):
        schema = ", ".join(f"{column} string" for column in HEADER)
        spark.createDataFrame(rows, schema).coalesce(1).write.format(kind).save(str(path))
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(render(kind, rows))
    return path


def collect(rows: DataFrame, *columns: str) -> set[tuple[object, ...]]:
    return {tuple(row) for row in rows.select(*columns).collect()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_texts(
    spark: SparkSession, read: Reader, tmp_path: Path, kind: str
) -> None:
    path = write_table(spark, tmp_path / f"my corpus+1.{kind}", kind)
    found = read(path, kind, train=["eng_Latn"], test="all")
    assert collect(found.texts, *TEXT_COLUMNS) == TEXTS
    assert found.rejected.count() == 0
    assert collect(found.texts, "row") == {(1,), (2,), (3,), (4,)}
    [(source,)] = collect(found.texts, "source")
    if kind in ("parquet", "delta"):
        assert str(source).endswith(".parquet") and "/" not in str(source)
    else:
        assert source == f"my corpus+1.{kind}"


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_folder_and_pattern_of_files(spark: SparkSession, read: Reader, tmp_path: Path, kind: str) -> None:
    for number, row in enumerate(ROWS):
        write_table(spark, tmp_path / "corpus" / f"part{number}" / f"x.{kind}", kind, [row])
    (tmp_path / "corpus" / "README.md").write_text("not data", encoding="utf-8")
    (tmp_path / "corpus" / "part0" / f"x.{kind}").rename(tmp_path / "corpus" / f"y.{kind}")
    folder = read(tmp_path / "corpus", kind, train="all", test="all")
    assert collect(folder.texts, *TEXT_COLUMNS) == TEXTS
    assert collect(folder.texts, "source", "row") == {
        (f"y.{kind}", 1), *((f"part{number}/x.{kind}", 1) for number in (1, 2, 3))
    }  # fmt: skip
    pattern = read(f"{tmp_path}/corpus/part[23]/*.{kind}", kind, test="all")
    assert collect(pattern.texts, "source") == {(f"part2/x.{kind}",), (f"part3/x.{kind}",)}


def test_relative_path(
    spark: SparkSession, read: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(spark, tmp_path / "corpus.tsv", "tsv")
    monkeypatch.chdir(tmp_path)
    assert collect(read("./corpus.tsv", "tsv").texts, "source") == {("corpus.tsv",)}


@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
def test_gzip(read: Reader, tmp_path: Path, kind: str) -> None:
    (tmp_path / f"corpus.{kind}.gz").write_bytes(gzip.compress(render(kind, ROWS)))
    assert collect(read(tmp_path, kind, train="all", test="all").texts, *TEXT_COLUMNS) == TEXTS


def test_column_order_may_differ_between_files(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_bytes(render("csv", ROWS[:2]))
    (tmp_path / "2.csv").write_bytes(render("csv", [row[::-1] for row in ROWS[2:]], HEADER[::-1]))
    assert collect(read(tmp_path, "csv", train="all", test="all").texts, *TEXT_COLUMNS) == TEXTS


@pytest.mark.parametrize("kind", KINDS)
def test_constants_stand_for_columns(spark: SparkSession, read: Reader, tmp_path: Path, kind: str) -> None:
    path = write_table(spark, tmp_path / f"corpus.{kind}", kind)
    found = read(path, kind, columns={"text": "body"}, lang="swh_Latn", split="dev", dev=["swh"])
    assert collect(found.texts, *TEXT_COLUMNS) == {
        ("swh_Latn", "swh_Latn", "dev", text, None, None) for _, text, *_ in ROWS
    }


BAD_ROWS = {
    "empty text": (("d", " \u00a0\u3000", "eng_Latn", "travel", "train"), "the text is empty"),
    "foreign label": (("d", "Hi", "eng_Latn", "tourism", "train"), "the label is none of the task's"),
    "no label": (("d", "Hi", "eng_Latn", "", "train"), "no label"),
    "malformed language": (("d", "Hi", "en", "travel", "train"), "the language code does not match"),
    "no language": (("d", "Hi", "", "travel", "train"), "the language code does not match"),
    "foreign split": (("d", "Hi", "eng_Latn", "travel", "valid"), "the split is none of train, dev and test"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_bad_rows_are_rejected_with_reason(
    spark: SparkSession, read: Reader, tmp_path: Path, kind: str
) -> None:
    bad = [row for row, _ in BAD_ROWS.values()]
    path = write_table(spark, tmp_path / f"corpus.{kind}", kind, [*bad, *ROWS])
    found = read(path, kind, train="all", test="all")
    assert collect(found.texts, *TEXT_COLUMNS) == TEXTS
    rejected = {row["row"]: row for row in found.rejected.collect()}
    assert sorted(rejected) == [1, 2, 3, 4, 5, 6]
    for number, (row, reason) in enumerate(BAD_ROWS.values(), 1):
        assert rejected[number]["reason"].startswith(reason)
        assert row[0] in rejected[number]["content"]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_without_a_label_are_kept_outside_of_training(
    spark: SparkSession, read: Reader, tmp_path: Path, kind: str
) -> None:
    unlabelled = [("d", "Habari", "swh_Latn", "", "test"), ("e", "Hi", "eng_Latn", "", "dev")]
    path = write_table(spark, tmp_path / f"corpus.{kind}", kind, [*unlabelled, *ROWS])
    found = read(path, kind, train="all", dev="all", test="all")
    labels = {row["text"]: row["label"] for row in found.texts.collect()}
    assert labels["Habari"] is labels["Hi"] is None
    assert found.rejected.count() == 0


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "delta"])
def test_null_is_an_empty_value(spark: SparkSession, read: Reader, tmp_path: Path, kind: str) -> None:
    nulls = [tuple(None if column == gap else "travel" for column in HEADER) for gap in HEADER[1:]]
    path = write_table(spark, tmp_path / f"corpus.{kind}", kind, [*nulls, *ROWS])
    found = read(path, kind, train="all", test="all")
    assert (found.texts.count(), found.rejected.count()) == (4, 4)


def test_rejected_rows_of_what_is_not_selected_are_left_out(read: Reader, tmp_path: Path) -> None:
    bad = [
        ("d", "", "swa", "travel", "test"),
        ("e", "", "eng_Latn", "travel", "train"),
        ("f", "x", "?", "travel", "test"),
    ]
    (tmp_path / "corpus.tsv").write_bytes(render("tsv", [*ROWS, *bad]))
    found = read(tmp_path / "corpus.tsv", "tsv", train=["eng_Latn"])
    assert collect(found.rejected, "row") == {(6,), (7,)}


def test_row_with_broken_encoding_is_rejected_alone(read: Reader, tmp_path: Path) -> None:
    for kind in ("tsv", "csv", "jsonl"):
        bad = render(kind, [("d", "B?s", "eng_Latn", "travel", "train")]).replace(b"?", b"\xfc")
        bad = bad if kind == "jsonl" else bad.partition(b"\n")[2]
        (tmp_path / f"corpus.{kind}").write_bytes(render(kind, ROWS) + bad)
        found = read(tmp_path / f"corpus.{kind}", kind, train="all", test="all")
        assert found.texts.count() == 4
        [row] = found.rejected.collect()
        # The multi-line field of the second row is one row, and in JSONL one line.
        assert (row["row"], row["reason"]) == (5, "the row is not valid UTF-8")
        assert "B\ufffds" in row["content"]


def test_row_with_other_field_count_is_rejected_alone(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "corpus.tsv").write_bytes(
        render("tsv", ROWS) + b"only\ttwo\n\n" + render("tsv", ROWS[:1]).partition(b"\n")[2]
    )
    found = read(tmp_path / "corpus.tsv", "tsv", train="all", test="all")
    assert found.texts.count() == 5
    assert collect(found.rejected, "row", "reason", "content") == {
        (5, "2 fields where the first line has 5", "only\ttwo")
    }


def test_line_that_is_no_json_object_is_rejected_alone(read: Reader, tmp_path: Path) -> None:
    bad = b'{"doc": "d", "body": \n[1, 2]\n"text"\n\nnull\n{"body": {"a": 1}}\n'
    (tmp_path / "corpus.jsonl").write_bytes(render("jsonl", ROWS) + bad)
    found = read(tmp_path / "corpus.jsonl", "jsonl", train="all", test="all")
    assert collect(found.texts, *TEXT_COLUMNS) == TEXTS
    reasons = {row["row"]: row["reason"] for row in found.rejected.collect()}
    assert {row for row, reason in reasons.items() if reason == "the line is not a JSON object"} == {
        5,
        6,
        7,
        9,
    }


def test_line_numbers_of_a_file_in_many_blocks(spark: SparkSession, read: Reader, tmp_path: Path) -> None:
    rows = [
        (str(number), f"text {number} " + "x" * 50, "eng_Latn", "travel", "test")
        for number in range(1, 3_001)
    ]
    (tmp_path / "a.jsonl").write_bytes(render("jsonl", rows))
    (tmp_path / "b.jsonl").write_bytes(render("jsonl", rows[:700]))
    before = spark.conf.get("spark.sql.files.maxPartitionBytes")
    spark.conf.set("spark.sql.files.maxPartitionBytes", "50000")
    try:
        texts = read(tmp_path, "jsonl").texts
        assert texts.rdd.getNumPartitions() > 4
        assert texts.where("row = cast(parallel_id AS long)").count() == texts.count() == 3_700
    finally:
        spark.conf.set("spark.sql.files.maxPartitionBytes", str(before))


HEAD = render("tsv", ROWS[:1])
FAULTS = {
    "empty": ("tsv", b"", "empty, no tsv file with content"),
    "header only": ("tsv", render("tsv", []), "no usable row: it has none"),
    "missing column": (
        "tsv",
        b"body\nx\n",
        "no column 'code', 'topic', 'part', 'doc'; the first line names 'body'",
    ),
    "missing key": (
        "jsonl",
        b'{"body": "x", "code": "eng"}\n',
        "no line has 'topic', 'part', 'doc'; the first one",
    ),
    "open quote": (
        "tsv",
        HEAD + b'd\t"Hi\tswa\ttravel\ttest\ne\tHi\tswa\ttravel\ttest\n',
        "broken quoting in the record at line 3",
    ),
    "text after quote": ("tsv", HEAD + b'd\t"Hi" you\tswa\n', "broken quoting in the record at line 3"),
    "no usable row": (
        "tsv",
        render("tsv", [("a", "Hi", "english", "travel", "test")] * 3),
        r"no usable row: the language code does not match .* \(3 rows, one is 'a\\tHi\\tenglish",
    ),
    "no JSON": ("jsonl", b"text\nmore text\n", "no line has 'body', .*; the first one has no JSON object"),
    "no Parquet": ("parquet", b"PAR1 but no more than that", "cannot be read: .*check the path and the kind"),
}


@pytest.mark.parametrize(("kind", "content", "said"), FAULTS.values(), ids=FAULTS)
def test_fault_of_a_file_is_one_message(
    read: Reader, tmp_path: Path, kind: str, content: bytes, said: str
) -> None:
    path = tmp_path / f"corpus.{kind}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read(path, kind, test="all")
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_damaged_parquet_file_is_one_message(spark: SparkSession, read: Reader, tmp_path: Path) -> None:
    path = write_table(spark, tmp_path / "corpus.parquet", "parquet", ROWS * 1_000)
    [part] = path.glob("*.parquet")
    content = part.read_bytes()
    part.write_bytes(content[:100] + b"\0" * 100 + content[200:])
    next(path.glob(".*.crc")).unlink()
    with pytest.raises(DataError, match=r"corpus\.parquet: cannot be read"):
        read(path, "parquet").texts.collect()


def test_broken_gzip_file_is_one_message(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "corpus.tsv.gz").write_bytes(gzip.compress(HEAD)[:40])
    with pytest.raises(DataError, match=r"corpus\.tsv\.gz: cannot be read .*every executor must be able"):
        read(tmp_path / "corpus.tsv.gz", "tsv")


def test_faults_of_many_files_are_told_together(read: Reader, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.tsv").write_bytes(b"text\nx\n")
    with pytest.raises(DataError, match="and 2 more files") as caught:
        read(tmp_path, "tsv")
    assert str(caught.value).count("no column") == 3


@pytest.mark.parametrize("kind", KINDS)
def test_missing_path(read: Reader, tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=r"nowhere.*cannot be read"):
        read(tmp_path / "nowhere", kind)


def test_folder_without_files_of_the_kind(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("x", encoding="utf-8")
    (tmp_path / "more.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match="empty, no tsv file with content"):
        read(tmp_path, "tsv")


def test_columns_of_parquet_are_checked(spark: SparkSession, read: Reader, tmp_path: Path) -> None:
    spark.range(3).withColumnRenamed("id", "body").write.parquet(str(tmp_path / "numbers"))
    with pytest.raises(DataError, match="no column 'text'; it has 'body'"):
        read(tmp_path / "numbers", "parquet", columns={"text": "text"}, lang="eng_Latn")
    with pytest.raises(DataError, match="column 'body' is bigint; expected string"):
        read(tmp_path / "numbers", "parquet", columns={"text": "body"}, lang="eng_Latn")


def test_training_texts_need_labels(read: Reader, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"name their column as columns\.label"):
        read(tmp_path, "tsv", columns={"text": "body"}, lang="eng_Latn", split="train", train="all")


def test_constant_language_is_checked(read: Reader, tmp_path: Path) -> None:
    with pytest.raises(LanguageCodeError, match="'English' is no language code"):
        read(tmp_path, "tsv", columns={"text": "body"}, lang="English")


@pytest.mark.parametrize(
    "values",
    [
        {"columns": {"text": "body"}},
        {"columns": COLUMNS, "lang": "eng_Latn"},
        {"columns": COLUMNS, "kind": "xml"},
        {"columns": COLUMNS, "split": "validation"},
        {"columns": {"txt": "body"}, "lang": "eng_Latn"},
    ],
)
def test_bad_config(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        parse_config(TableSource, {"format": "table", "path": "x", "kind": "tsv"} | values, "source")


@pytest.mark.parametrize("kind", ["jsonl", "delta"])
def test_a_change_to_the_files_is_noticed(
    kind: str, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    target = tmp_path / f"b.{kind}"
    write_table(spark, target, kind)
    path = str(target) if kind == "delta" else "~/{a,b}.jsonl"
    source = parse_config(
        TableSource, {"format": "table", "path": path, "kind": kind, "columns": COLUMNS}, "source"
    )
    before = source_state(spark, source)
    assert len(before) == 1
    assert source_state(spark, source) == before
    if kind == "delta":
        spark.sql(f"DELETE FROM delta.`{target}` WHERE doc = 'c'")
    else:
        write_table(spark, target, kind, ROWS[:2])
    assert source_state(spark, source) != before
