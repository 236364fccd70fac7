"""How many of a query's candidates are trained on."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from xampler.core.pairing import NEGATIVE, POSITIVE
from xampler.pipeline.experiment import MineConfig


def keep_nearest(pairs: DataFrame, config: MineConfig) -> DataFrame:
    """The rows of TRAINING_PAIRS that the config keeps: of each query and role the lowest ranks."""
    limits = {POSITIVE: config.positives, NEGATIVE: config.negatives}
    place = F.row_number().over(Window.partitionBy("query_id", "role").orderBy("rank"))
    numbered = pairs.withColumn("place", place)
    for role, limit in limits.items():
        if limit is not None:
            numbered = numbered.where((F.col("role") != role) | (F.col("place") <= limit))
    return numbered.drop("place")
