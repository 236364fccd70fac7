"""Mine: judgements to training pairs, by the paper's binary signal."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from xampler.core.pairing import NEGATIVE, POSITIVE, PROPOSED, role_of, split_of
from xampler.core.scoring import score_prompts
from xampler.errors import DataError
from xampler.pipeline.context import Context
from xampler.pipeline.experiment import MineConfig
from xampler.pipeline.prompts import prompt_keys
from xampler.pipeline.score import score_part
from xampler.pipeline.stage import Outcome, Part
from xampler.tables.schema import CANDIDATES, PAIRS, SCORES, TRAINING_PAIRS
from xampler.tracking.run import Run


def mine_part(context: Context) -> Part:
    """The stage, for this experiment."""
    return Part(
        stage="mine",
        depends=lambda: context.experiment.mine.model_dump(mode="json"),
        run=lambda run: mine_pairs(context, run),
        before=(score_part(context),),
        reads=(PAIRS, CANDIDATES, SCORES),
        writes=(TRAINING_PAIRS,),
    )


def mine_pairs(context: Context, run: Run) -> Outcome:
    """Replace the experiment's training pairs.

    Raises:
        DataError: all pairs have the same role, so there is nothing to learn.
    """
    rows = replace_training_pairs(context, PROPOSED)
    return Outcome(rows, metrics=_signal(context, rows))


def replace_training_pairs(context: Context, proposer: str) -> int:
    """Replace the training pairs of one proposer by its judged pairs; returns their number."""
    name, labels, config = context.name, context.task.labels, context.experiment.mine

    def mine_task(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            gold_P = np.array([labels.index(label) for label in batch["label"]], dtype=np.intp)
            log_likelihood_PL = np.stack(batch["log_likelihoods"].tolist())
            scored = score_prompts(log_likelihood_PL, gold_P)
            yield batch.assign(
                experiment=name,
                proposer=proposer,
                role=[role_of(*pair) for pair in zip(scored.predicted_P, gold_P, strict=True)],
                same_label=batch["label"] == batch["candidate_label"],
                gold_log_prob=scored.gold_log_prob_P,
                split=[
                    split_of(query_id, config.held_out_share, config.seed) for query_id in batch["query_id"]
                ],
            )[TRAINING_PAIRS.column_names]

    pool = context.store.read(CANDIDATES, experiment=name)
    scores = context.store.read(SCORES, **prompt_keys(context))
    judged = (
        context.store.read(PAIRS, experiment=name, proposer=proposer)
        .join(pool.select(F.col("candidate_id").alias("query_id"), "label"), on="query_id", how="inner")
        .join(
            pool.select("candidate_id", F.col("label").alias("candidate_label")),
            on="candidate_id",
            how="inner",
        )
        .join(
            scores.select("query_id", "candidate_id", "candidate_label", "log_likelihoods"),
            on=["query_id", "candidate_id", "candidate_label"],
            how="inner",
        )
        .select("query_id", "candidate_id", "rank", "label", "candidate_label", "log_likelihoods")
    )
    mined = judged.mapInPandas(mine_task, TRAINING_PAIRS.spark_schema())
    return context.store.replace(
        TRAINING_PAIRS, keep_nearest(mined, config), experiment=name, proposer=proposer
    )


def keep_nearest(pairs: DataFrame, config: MineConfig) -> DataFrame:
    """The rows of TRAINING_PAIRS that the config keeps: of each query and role the lowest ranks."""
    limits = {POSITIVE: config.positives, NEGATIVE: config.negatives}
    place = F.row_number().over(Window.partitionBy("query_id", "role").orderBy("rank"))
    numbered = pairs.withColumn("place", place)
    for role, limit in limits.items():
        if limit is not None:
            numbered = numbered.where((F.col("role") != role) | (F.col("place") <= limit))
    return numbered.drop("place")


def _signal(context: Context, rows: int) -> dict[str, float]:
    """How the judgements fall: shares of positives, with right and with wrong labels shown."""
    pairs = context.store.read(TRAINING_PAIRS, experiment=context.name, proposer=PROPOSED)
    counts = pairs.groupBy("same_label", "role").count().collect()
    share = {
        same: {row["role"]: row["count"] for row in counts if row["same_label"] == same}
        for same in (True, False)
    }
    positives = sum(by_role.get(POSITIVE, 0) for by_role in share.values())
    if positives in (0, rows):
        raise DataError(
            f"all {rows} pairs are judged {'positive' if positives else 'negative'}: the language model "
            "gives no signal with this task's template and label words"
        )
    return {
        "positive_share": positives / rows,
        "positive_share_same_label": _share(share[True]),
        "positive_share_other_label": _share(share[False]),
    }


def _share(by_role: dict[str, int]) -> float:
    total = sum(by_role.values())
    return by_role.get(POSITIVE, 0) / total if total else 0.0
