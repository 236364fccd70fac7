"""Predictions beside gold labels, with all labels of the task and with the language's own."""

import pytest
from pyspark.sql import SparkSession

from xampler.pipeline.outcomes import by_language, gold_labels, join_outcomes

pytestmark = pytest.mark.spark

LABELS = ("health", "religion", "sports")


def test_a_label_that_a_language_has_not_is_ruled_out_for_it(spark: SparkSession) -> None:
    queries = spark.createDataFrame(
        [
            ("q1", "test", "eng_Latn", "health"),
            ("q2", "test", "eng_Latn", "sports"),
            ("q1", "dev", "eng_Latn", "religion"),
            ("q3", "test", "hau_Latn", "religion"),
            ("q4", "test", "hau_Latn", "health"),
            ("q5", "test", "hau_Latn", None),
        ],
        "query_id string, split string, lang string, label string",
    )
    religion_first = [-2.0, -1.0, -3.0]
    predictions = spark.createDataFrame(
        [(f"q{number}", "d", religion_first) for number in range(1, 6)],
        "query_id string, demonstrations_id string, log_likelihoods array<double>",
    )
    shown = queries.where("split = 'test'").selectExpr(
        "'random' method", "0 seed", "query_id", "split", "lang", "'d' demonstrations_id"
    )
    found = join_outcomes(shown, predictions, gold_labels(queries), LABELS).toPandas()
    predicted = found.set_index("query_id").sort_index()
    assert predicted["predicted"].tolist() == ["religion"] * 4
    assert predicted["predicted_own"].tolist() == ["health", "health", "religion", "religion"]

    outcomes = by_language(found, LABELS)
    assert outcomes["eng_Latn"].correct_N.tolist() == [0, 0]
    assert outcomes["eng_Latn"].correct_own_N.tolist() == [1, 0]
    assert outcomes["hau_Latn"].correct_N.tolist() == outcomes["hau_Latn"].correct_own_N.tolist() == [1, 0]
