"""Delta tables: slices, keys, constraints, versions."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.testing import assertDataFrameEqual

from xampler.errors import SchemaError, StoreError
from xampler.tables.schema import PAIRS, SCORES, STAGE_RUNS, TABLES, Table
from xampler.tables.store import TablesConfig, TableStore


def pairs(spark: SparkSession, *rows: tuple[str, str, str, int]) -> DataFrame:
    values = [(experiment, "propose", *rest, 0.5) for experiment, *rest in rows]
    return spark.createDataFrame(values, PAIRS.spark_schema())


def score(spark: SparkSession, *query_ids: str, value: float = -1.0) -> DataFrame:
    rows = [("s", "p", query_id, "c", "travel", [value, -2.0], 0, 0, "run") for query_id in query_ids]
    return spark.createDataFrame(rows, SCORES.spark_schema())


def test_table_never_written_reads_as_empty(store: TableStore) -> None:
    assert store.read(PAIRS).count() == 0
    assert store.version(PAIRS) is None
    assert not store.exists(PAIRS)


def test_replace_touches_its_slice_only(spark: SparkSession, store: TableStore) -> None:
    store.replace(PAIRS, pairs(spark, ("a", "q1", "c1", 0), ("a", "q1", "c2", 1)), experiment="a")
    store.replace(PAIRS, pairs(spark, ("it's", "q1", "c1", 0)), experiment="it's")
    assert store.replace(PAIRS, pairs(spark, ("a", "q2", "c1", 0)), experiment="a") == 1
    assertDataFrameEqual(store.read(PAIRS), pairs(spark, ("a", "q2", "c1", 0), ("it's", "q1", "c1", 0)))
    assertDataFrameEqual(store.read(PAIRS, experiment="it's"), pairs(spark, ("it's", "q1", "c1", 0)))


def test_replace_refuses_rows_outside_the_slice(spark: SparkSession, store: TableStore) -> None:
    store.replace(PAIRS, pairs(spark, ("a", "q1", "c1", 0)), experiment="a")
    with pytest.raises((SchemaError, StoreError)):
        store.replace(PAIRS, pairs(spark, ("b", "q1", "c1", 0)), experiment="a")
    assertDataFrameEqual(store.read(PAIRS), pairs(spark, ("a", "q1", "c1", 0)))


def test_repeated_key_is_refused_and_nothing_written(spark: SparkSession, store: TableStore) -> None:
    with pytest.raises(SchemaError, match=r"pairs.*occurs more than once.*q1"):
        store.replace(PAIRS, pairs(spark, ("a", "q1", "c1", 0), ("a", "q1", "c1", 1)), experiment="a")
    assert store.read(PAIRS).count() == 0


def test_violated_constraint_is_one_sentence(spark: SparkSession, store: TableStore) -> None:
    with pytest.raises(SchemaError, match=r"table pairs: a row violates its constraints \(rank >= 0"):
        store.replace(PAIRS, pairs(spark, ("a", "q1", "c1", -1)), experiment="a")
    with pytest.raises(SchemaError, match="query_id <> candidate_id"):
        store.replace(PAIRS, pairs(spark, ("a", "same", "same", 0)), experiment="a")


def test_missing_column_is_named(spark: SparkSession, store: TableStore) -> None:
    with pytest.raises(SchemaError, match="similarity"):
        store.replace(PAIRS, pairs(spark, ("a", "q", "c", 0)).drop("similarity"), experiment="a")


def test_insert_missing_never_writes_a_key_twice(spark: SparkSession, store: TableStore) -> None:
    store.insert_missing(SCORES, score(spark, "q1", "q2"))
    store.insert_missing(SCORES, score(spark, "q2", "q3", value=-9.0))
    rows = {row["query_id"]: row["log_likelihoods"][0] for row in store.read(SCORES).collect()}
    assert rows == {"q1": -1.0, "q2": -1.0, "q3": -9.0}


def test_insert_of_nothing_new_changes_no_version(spark: SparkSession, store: TableStore) -> None:
    store.insert_missing(SCORES, score(spark, "q1"))
    version = store.version(SCORES)
    store.insert_missing(SCORES, score(spark, "q1"))
    assert store.version(SCORES) == version


def test_a_table_has_its_constraint_from_its_first_version(
    spark: SparkSession, store: TableStore, tmp_path: Path
) -> None:
    store.replace(PAIRS, pairs(spark, ("a", "q1", "c1", 0)), experiment="a")
    log = tmp_path / "tables" / "pairs" / "_delta_log" / f"{0:020}.json"
    actions = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    [metadata] = [action["metaData"] for action in actions if "metaData" in action]
    assert metadata["configuration"]["delta.constraints.xampler_rows"].startswith("(rank >= 0)")


def test_times_survive(spark: SparkSession, store: TableStore) -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    row = ("e", "score", "finished", "f", "{}", 1.5, "run", when)
    store.append(STAGE_RUNS, spark.createDataFrame([row], STAGE_RUNS.spark_schema()))
    [stored] = store.read(STAGE_RUNS).collect()
    assert stored["at"].astimezone(UTC) == when


def test_version_is_that_of_the_history(spark: SparkSession, store: TableStore, tmp_path: Path) -> None:
    for query in ("q1", "q2", "q3"):
        store.replace(PAIRS, pairs(spark, ("a", query, "c1", 0)), experiment="a")
    [last] = DeltaTable.forPath(spark, str(tmp_path / "tables" / "pairs")).history(1).collect()
    assert store.version(PAIRS) == last["version"] == 3


def test_unwritable_store_is_named(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"file/tables cannot be written .*tables\.path"):
        TableStore(spark, TablesConfig(path=str(tmp_path / "file" / "tables")))


def test_tables_by_catalog_name(spark: SparkSession) -> None:
    spark.sql("CREATE SCHEMA IF NOT EXISTS xampler_test")
    store = TableStore(spark, TablesConfig(schema_name="xampler_test"))
    try:
        store.replace(PAIRS, pairs(spark, ("a", "q1", "c1", 0)), experiment="a")
        store.replace(PAIRS, pairs(spark, ("a", "q2", "c1", 0)), experiment="a")
        assertDataFrameEqual(store.read(PAIRS), pairs(spark, ("a", "q2", "c1", 0)))
        assert store.version(PAIRS) == 2
    finally:
        spark.sql("DROP SCHEMA xampler_test CASCADE")


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_can_be_created_with_its_constraints(
    spark: SparkSession, store: TableStore, table: Table
) -> None:
    store.replace(table, spark.createDataFrame([], table.spark_schema()))
    stored = store.read(table)
    assert stored.columns == table.column_names
    assert [f.dataType for f in stored.schema] == [c.type for c in table.columns]
