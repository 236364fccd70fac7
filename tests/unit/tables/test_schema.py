import json
import re
import sqlite3
from itertools import chain
from typing import Any

import pytest
from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    DataType,
    DoubleType,
    IntegerType,
    LongType,
    MapType,
    StringType,
    TimestampType,
)

from xampler.tables import schema
from xampler.tables.schema import (
    DEMONSTRATIONS,
    LABELS,
    METHOD_DIFFERENCES,
    METRICS_BY_GROUP,
    METRICS_BY_LANGUAGE,
    PAIRS,
    PREDICTIONS,
    QUERIES,
    SCORES,
    STAGE_RUNS,
    TABLES,
    TRAINING_PAIRS,
    Table,
)

SQL_WORDS = {"AND", "BETWEEN", "IN", "IS", "NOT", "NULL", "OR", "length", "size"}
by_name = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)


def plain_value(kind: DataType) -> object:
    match kind:
        case StringType():
            return "x"
        case IntegerType() | LongType():
            return 1
        case DoubleType():
            return 0.5
        case BooleanType():
            return True
        case ArrayType():
            return [plain_value(kind.elementType)] * 2
        case MapType():
            return {"x": 1.0}
        case TimestampType():
            return "2026-01-01"
    raise AssertionError(kind)


def good_row(table: Table) -> dict[str, Any]:
    row = {column.name: plain_value(column.type) for column in table.columns}
    wanted = {"split": "test", "query_id": "q", "role": "positive", "gold_log_prob": -0.5}
    wanted["state"] = "finished"
    if table is TRAINING_PAIRS:
        wanted["split"] = "held_out"
    return row | {name: value for name, value in wanted.items() if name in row}


def broken_checks(table: Table, row: dict[str, Any]) -> list[str]:
    """The checks that a row does not pass, evaluated by SQLite with Spark's ``size`` added."""
    database = sqlite3.connect(":memory:")
    database.create_function("size", 1, lambda text: len(json.loads(text)))
    names = ", ".join(f'"{name}"' for name in row)
    database.execute(f"CREATE TABLE one ({names})")
    values = [json.dumps(value) if isinstance(value, list | dict) else value for value in row.values()]
    database.execute(f"INSERT INTO one VALUES ({', '.join('?' * len(row))})", values)
    return [check for check in table.checks if not database.execute(f"SELECT {check} FROM one").fetchone()[0]]


def test_every_table_of_the_module_is_listed_once() -> None:
    defined = [value for value in vars(schema).values() if isinstance(value, Table)]
    assert {table.name for table in TABLES} == {table.name for table in defined}
    assert len({table.name for table in TABLES}) == len(TABLES) == len(defined)


@by_name
def test_columns_are_named_once_and_explained(table: Table) -> None:
    assert len(set(table.column_names)) == len(table.columns)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in [table.name, *table.column_names])
    assert table.comment
    assert all(column.comment for column in table.columns)


@by_name
def test_keys_are_columns_that_are_never_null(table: Table) -> None:
    required = {column.name for column in table.columns if not column.nullable}
    assert table.key
    assert set(table.key) <= required
    assert len(set(table.key)) == len(table.key)


@by_name
def test_clustering_is_by_columns_delta_can_cluster_by(table: Table) -> None:
    # At most four, among the first 32 columns (those with statistics), and of a type with an order.
    assert len(table.cluster_by) <= 4
    assert set(table.cluster_by) <= set(table.column_names[:32])
    types = {column.name: column.type for column in table.columns}
    assert not any(isinstance(types[name], ArrayType | MapType) for name in table.cluster_by)


@by_name
def test_checks_speak_of_the_tables_columns(table: Table) -> None:
    unquoted = re.sub(r"'[^']*'", "", " ".join(table.checks))
    assert set(re.findall(r"[A-Za-z_]\w*", unquoted)) - SQL_WORDS <= set(table.column_names)


@by_name
def test_a_good_row_passes_all_checks(table: Table) -> None:
    assert broken_checks(table, good_row(table)) == []


@pytest.mark.parametrize(
    ("table", "change"),
    [
        (QUERIES, {"split": "validation"}),
        (QUERIES, {"text": ""}),
        (PAIRS, {"rank": -1}),
        (PAIRS, {"candidate_id": "q"}),
        (SCORES, {"log_likelihoods": [-1.0]}),
        (SCORES, {"demonstrations_dropped": -1}),
        (PREDICTIONS, {"texts_shortened": -1}),
        (TRAINING_PAIRS, {"role": "neutral"}),
        (TRAINING_PAIRS, {"split": "dev"}),
        (TRAINING_PAIRS, {"gold_log_prob": 0.1}),
        (DEMONSTRATIONS, {"similarities": [0.5]}),
        (METRICS_BY_LANGUAGE, {"accuracy": 50.0}),
        (METRICS_BY_LANGUAGE, {"macro_f1": -0.1}),
        (METRICS_BY_GROUP, {"queries": 0}),
        (METHOD_DIFFERENCES, {"difference": -1.5}),
        (METHOD_DIFFERENCES, {"share_better": 2.0}),
        (LABELS, {"text": ""}),
        (STAGE_RUNS, {"state": "started"}),
    ],
    ids=lambda value: value.name if isinstance(value, Table) else "-".join(value),
)
def test_a_bad_row_breaks_one_check(table: Table, change: dict[str, Any]) -> None:
    [broken] = broken_checks(table, good_row(table) | change)
    assert set(change) & set(re.findall(r"\w+", broken))


def test_log_prob_of_a_certain_label_may_be_above_zero_by_rounding() -> None:
    assert broken_checks(TRAINING_PAIRS, good_row(TRAINING_PAIRS) | {"gold_log_prob": 1e-16}) == []


def test_method_that_shows_nothing_has_empty_lists() -> None:
    row = good_row(DEMONSTRATIONS) | {"demonstration_ids": [], "similarities": []}
    assert broken_checks(DEMONSTRATIONS, row) == []


@by_name
def test_spark_schema_says_what_the_columns_say(table: Table) -> None:
    fields = table.spark_schema().fields
    assert [(field.name, field.nullable, field.dataType) for field in fields] == [
        (column.name, column.nullable, column.type) for column in table.columns
    ]
    assert [field.metadata["comment"] for field in fields] == [column.comment for column in table.columns]


def test_only_what_may_be_missing_is_nullable() -> None:
    nullable = {
        f"{table.name}.{column.name}" for table in TABLES for column in table.columns if column.nullable
    }
    assert nullable == {"queries.label", "queries.parallel_id"}


def test_a_name_has_one_type_in_all_tables() -> None:
    columns = chain.from_iterable(table.columns for table in TABLES)
    types: dict[str, set[str]] = {}
    for column in columns:
        types.setdefault(column.name, set()).add(column.type.simpleString())
    assert {name: kinds for name, kinds in types.items() if len(kinds) > 1} == {}


def test_scores_are_stored_by_all_that_they_depend_on() -> None:
    depends = ("scorer_id", "prompt_id", "query_id")
    assert set(SCORES.key) == {*depends, "candidate_id", "candidate_label"}
    assert set(PREDICTIONS.key) == {*depends, "demonstrations_id"}
