"""How the language model's work is cut into chunks and tasks."""

from collections import Counter

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from xampler.pipeline.prompts import ROWS_PER_CALL, lay_out

pytestmark = pytest.mark.spark

SCHEMA = "query_id string, demonstration_ids array<string>"
ALIKE = 3 * ROWS_PER_CALL


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, list[str]]]:
    """Many queries for which nothing was found, so that all have the first candidates; some of others."""
    found_nothing = [(f"n{number}", ["c0", "c1", "c2"]) for number in range(ALIKE)]
    translations = [
        (f"t{number}", [f"c{number % 40}", "c5", f"c{number % 7}"]) for number in range(ROWS_PER_CALL)
    ]
    alone: list[tuple[str, list[str]]] = [(f"z{number}", []) for number in range(500)]
    return [*found_nothing, *translations, *alone]


def test_rows_that_begin_alike_travel_together_but_never_fill_the_chunk_of_others(
    spark: SparkSession, rows: list[tuple[str, list[str]]]
) -> None:
    missing = spark.createDataFrame(rows, SCHEMA)
    layout = lay_out(missing, rows_per_commit=1000)
    assert layout.rows == len(rows)
    assert layout.chunks == -(-len(rows) // 1000)
    laid = missing.select("*", layout.chunk.alias("chunk"), layout.together.alias("together")).collect()
    assert {row["chunk"] for row in laid} <= set(range(layout.chunks))
    # Three groups of about 2,048 rows, and smaller ones, in nine chunks: not one of 6,144 rows.
    assert max(Counter(row["chunk"] for row in laid).values()) < 0.9 * ALIKE
    groups = Counter(tuple(row["together"]) for row in laid)
    assert max(groups.values()) <= 1.2 * ROWS_PER_CALL
    translated = {tuple(row["together"]) for row in laid if row["query_id"].startswith("t")}
    assert len(translated) == 40
    assert len({row["chunk"] for row in laid if row["query_id"].startswith("z")}) == layout.chunks


def test_a_row_is_in_the_same_chunk_however_often_one_looks(
    spark: SparkSession, rows: list[tuple[str, list[str]]]
) -> None:
    missing = spark.createDataFrame(rows, SCHEMA)
    again = spark.createDataFrame(rows[::-1], SCHEMA).repartition(5)
    first, second = lay_out(missing, 1000), lay_out(again, 1000)
    chunks = missing.select("query_id", first.chunk.alias("first"))
    others = again.select("query_id", second.chunk.alias("second"))
    differing = chunks.join(others, on="query_id", how="inner").where(F.col("first") != F.col("second"))
    assert differing.isEmpty()


def test_nothing_to_do(spark: SparkSession) -> None:
    assert lay_out(spark.createDataFrame([], SCHEMA), 1000).rows == 0
