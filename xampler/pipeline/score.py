"""Score: the language model's judgement of every proposed pair, into ``scores``."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from xampler.core.pairing import PROPOSED
from xampler.pipeline.context import Context
from xampler.pipeline.prompts import prompt_keys, score_missing
from xampler.pipeline.propose import propose_part
from xampler.pipeline.stage import Outcome, Part
from xampler.tables.schema import CANDIDATES, PAIRS, SCORES
from xampler.tracking.run import Run


def score_part(context: Context) -> Part:
    """The stage, for this experiment."""
    return Part(
        stage="score",
        depends=lambda: prompt_keys(context),
        run=lambda run: score_pairs(context, run),
        before=(propose_part(context),),
        reads=(PAIRS, CANDIDATES),
        writes=(SCORES,),
    )


def score_pairs(context: Context, run: Run) -> Outcome:
    """Score the pairs that no run has scored before."""
    pairs = context.store.read(PAIRS, experiment=context.name, proposer=PROPOSED)
    scored = score_missing(context, SCORES, one_shot_work(context), run.run_id)
    return Outcome(pairs.count(), scored.prompts, scored.figures)


def one_shot_work(context: Context, proposer: str = PROPOSED) -> DataFrame:
    """Every pair of a proposer as work for ``score_missing``."""
    pairs = context.store.read(PAIRS, experiment=context.name, proposer=proposer)
    pool = context.store.read(CANDIDATES, experiment=context.name)
    queries = pool.select(F.col("candidate_id").alias("query_id"), F.col("text").alias("query_text"))
    shown = pool.select("candidate_id", F.col("label").alias("candidate_label"))
    return (
        pairs.select("query_id", "candidate_id")
        .join(queries, on="query_id", how="inner")
        .join(shown, on="candidate_id", how="inner")
        .withColumn("demonstration_ids", F.array("candidate_id"))
    )
