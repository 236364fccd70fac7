"""Predict: label log-likelihoods of every query after its demonstrations, into ``predictions``."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from xampler.pipeline.context import Context
from xampler.pipeline.prompts import Scored, prompt_keys, score_missing
from xampler.pipeline.retrieve import retrieve_parts
from xampler.pipeline.stage import Outcome, Part
from xampler.tables.schema import CANDIDATES, DEMONSTRATIONS, PREDICTIONS, QUERIES
from xampler.tracking.run import Run


def predict_part(context: Context) -> Part:
    """The stage, for this experiment."""
    return Part(
        stage="predict",
        depends=lambda: prompt_keys(context),
        run=lambda run: predict_labels(context, run),
        before=tuple(retrieve_parts(context)),
        reads=(QUERIES, CANDIDATES, DEMONSTRATIONS),
        writes=(PREDICTIONS,),
    )


def predict_labels(context: Context, run: Run) -> Outcome:
    """Label what no run has labelled before; methods that chose the same demonstrations share the work."""
    methods = list(context.experiment.prompting_methods)
    demonstrations = context.store.read(DEMONSTRATIONS, experiment=context.name).where(
        F.col("method").isin(methods)
    )
    scored = predict_missing(context, demonstrations, run.run_id)
    return Outcome(demonstrations.count(), scored.prompts, scored.figures)


def predict_missing(context: Context, demonstrations: DataFrame, run_id: str) -> Scored:
    """Complete ``predictions`` for these rows of ``demonstrations``."""
    queries = context.store.read(QUERIES, experiment=context.name)
    texts = queries.select("query_id", F.col("text").alias("query_text")).dropDuplicates(["query_id"])
    work = (
        demonstrations.select("query_id", "demonstrations_id", "demonstration_ids")
        .dropDuplicates(["query_id", "demonstrations_id"])
        .join(texts, on="query_id", how="inner")
    )
    return score_missing(context, PREDICTIONS, work, run_id)
