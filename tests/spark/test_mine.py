"""Mining: of each query and role the nearest are kept."""

import pytest
from pyspark.sql import SparkSession

from xampler.pipeline.experiment import MineConfig
from xampler.pipeline.mine import keep_nearest
from xampler.tables.schema import TRAINING_PAIRS

ROLES = {"q": "pnppnn", "r": "nnp"}  # by rank


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [
        (None, None, {"q": {0, 1, 2, 3, 4, 5}, "r": {0, 1, 2}}),
        (1, None, {"q": {0, 1, 4, 5}, "r": {0, 1, 2}}),
        (2, 1, {"q": {0, 1, 2}, "r": {0, 2}}),
        (None, 0, {"q": {0, 2, 3}, "r": {2}}),
    ],
)
def test_nearest_of_each_role(
    spark: SparkSession, positives: int | None, negatives: int | None, expected: dict[str, set[int]]
) -> None:
    names = {"p": "positive", "n": "negative"}
    rows = [
        ("e", "propose", query, f"c{rank}", rank, names[role], role == "p", -0.5, "train")
        for query, roles in ROLES.items()
        for rank, role in enumerate(roles)
    ]
    pairs = spark.createDataFrame(rows[::-1], TRAINING_PAIRS.spark_schema())
    kept = keep_nearest(pairs, MineConfig(positives=positives, negatives=negatives))
    assert kept.columns == TRAINING_PAIRS.column_names
    found: dict[str, set[int]] = {query: set() for query in ROLES}
    for row in kept.collect():
        found[row["query_id"]].add(row["rank"])
    assert found == expected
