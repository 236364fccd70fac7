"""Promote: register the trained retriever with its pool as a labeller, and compare it with the champion."""

import logging
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from pyspark.sql import functions as F

from xampler.core.metrics import PairedDifference, paired_difference
from xampler.errors import DataError
from xampler.models.build import EncoderConfig, scorer_id
from xampler.models.labeller import RETRIEVER, LabellerSpec, read_spec, save_labeller
from xampler.pipeline.context import Context
from xampler.pipeline.evaluate import evaluate_part
from xampler.pipeline.experiment import TrainedMethod
from xampler.pipeline.lineage import gather_lineage
from xampler.pipeline.outcomes import by_language, read_outcomes
from xampler.pipeline.pool import encoder_index_opener, read_pool
from xampler.pipeline.predict import predict_missing
from xampler.pipeline.retrieve import search_queries, trained_encoder
from xampler.pipeline.stage import Outcome, Part, fingerprint
from xampler.pipeline.train import as_trained, train_part
from xampler.tables.schema import CANDIDATES, DEMONSTRATIONS, PREDICTIONS, QUERIES
from xampler.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    Version,
    download_labeller,
    find_version,
    register_labeller,
    set_alias,
    set_version_tags,
    version_of,
)
from xampler.tracking.run import Run

logger = logging.getLogger(__name__)

EXAMPLE_TEXTS = 2


def promote_part(context: Context) -> Part:
    """The stage, for this experiment."""
    part = Part(
        stage="promote",
        depends=lambda: {
            "config": context.experiment.promote.model_dump(mode="json"),
            "tracking": context.engines.tracker.uri,
        },
        run=lambda run: promote_retriever(context, part, run),
        before=(train_part(context, _method(context).recipe), evaluate_part(context)),
        reads=(QUERIES, CANDIDATES, DEMONSTRATIONS, PREDICTIONS),
        still_there=lambda result: version_of(context.engines.tracker, result["name"], CHAMPION) is not None,
    )
    return part


def promote_retriever(context: Context, part: Part, run: Run) -> Outcome:
    """Register the challenger; it becomes champion only if it is better on the dev split."""
    tracker, config = context.engines.tracker, context.experiment.promote
    challenger = _register(context, fingerprint(context, part), run)
    set_alias(tracker, challenger, CHALLENGER)
    champion = version_of(tracker, config.model_name, CHAMPION)
    scored = 0
    if champion is None:
        decision = {"decision": "promoted", "reason": "there was no champion"}
    elif champion.version == challenger.version:
        decision = {"decision": "promoted", "reason": "it is the champion already"}
    else:
        difference, scored = _compare(context, champion, run)
        decision = _decide(difference, champion, config.min_gain)
    if decision["decision"] == "promoted":
        set_alias(tracker, challenger, CHAMPION)
    tags = {f"xampler.promotion.{key}": value for key, value in decision.items()}
    set_version_tags(tracker, challenger, tags)
    run.set_tags(tags)
    logger.info(
        "promote: %s version %s: %s (%s)",
        challenger.name,
        challenger.version,
        decision["decision"],
        decision["reason"],
    )
    return Outcome(1, scored, result={"name": challenger.name, "version": challenger.version} | decision)


def _register(context: Context, state: str, run: Run) -> Version:
    tracker, config = context.engines.tracker, context.experiment.promote
    known = find_version(tracker, config.model_name, state)
    if known is not None:
        return known
    recipe = _method(context).recipe
    encoder, pool = trained_encoder(context, recipe), read_pool(context)
    parts = (train_part(context, recipe), evaluate_part(context))
    lineage = gather_lineage(context, config.method, parts)
    with tempfile.TemporaryDirectory(prefix="xampler-") as temporary:
        folder = Path(temporary) / "labeller"
        save_labeller(folder, _spec(context, encoder), pool, Path(encoder.model))
        example = pool.texts[:EXAMPLE_TEXTS]
        return register_labeller(tracker, run.run_id, config.model_name, folder, lineage, state, example)


def _spec(context: Context, encoder: EncoderConfig) -> LabellerSpec:
    experiment = context.experiment
    return LabellerSpec(
        task=context.task,
        pool_lang=experiment.pool_lang,
        demonstrations=experiment.demonstrations,
        prompt=experiment.prompt,
        language_model=experiment.language_model,
        scorer_id=scorer_id(experiment.language_model),
        encoder=encoder,
    )


def _compare(context: Context, champion: Version, run: Run) -> tuple[PairedDifference, int]:
    """Challenger less champion on the dev split: the champion's retriever on this experiment's pool."""
    config, evaluate = context.experiment.promote, context.experiment.evaluate
    folder, _ = download_labeller(context.engines.tracker, champion.name, champion.version)
    encoder = as_trained(read_spec(folder).encoder, str(folder / RETRIEVER))
    pool = read_pool(context)
    queries = context.store.read(QUERIES, experiment=context.name).where(F.col("split") == config.split)
    method = f"{CHAMPION}-{champion.name}-{champion.version}"
    rows = search_queries(context, queries, method, pool, 0, encoder_index_opener(pool, encoder))
    context.store.replace(DEMONSTRATIONS, rows, experiment=context.name, method=method)
    chosen = context.store.read(DEMONSTRATIONS, experiment=context.name)
    scored = predict_missing(context, chosen.where(F.col("method") == method), run.run_id)
    both = chosen.where(F.col("method").isin(method, config.method) & (F.col("split") == config.split))
    outcomes = read_outcomes(context, both)
    if outcomes.empty:
        raise DataError(f"no {config.split} text has a label: the champion cannot be compared with")
    new, old = (_correct(outcomes, name, context) for name in (config.method, method))
    return paired_difference(new, old, evaluate.bootstrap_samples, evaluate.seed), scored.prompts


def _correct(outcomes: pd.DataFrame, method: str, context: Context) -> list[Any]:
    found = by_language(outcomes[outcomes["method"] == method], context.task.labels)
    return [found[lang].correct_N for lang in sorted(found)]


def _decide(difference: PairedDifference, champion: Version, min_gain: float) -> dict[str, str]:
    interval = difference.difference
    better = interval.low > min_gain
    return {
        "decision": "promoted" if better else "kept",
        "reason": f"paired gain over version {champion.version} {interval.value:+.4f} "
        f"[{interval.low:+.4f}, {interval.high:+.4f}], needed above {min_gain:+.4f}",
        "compared_with": champion.version,
        "gain": f"{interval.value:.4f}",
        "gain_low": f"{interval.low:.4f}",
        "gain_high": f"{interval.high:.4f}",
    }


def _method(context: Context) -> TrainedMethod:
    method = context.experiment.methods[context.experiment.promote.method]
    assert isinstance(method, TrainedMethod)  # checked by ExperimentConfig
    return method
