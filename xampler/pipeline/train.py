"""Train: training pairs to retrievers, one per recipe, by DeepSpeed ranks that Spark launches."""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

from pyspark.ml.deepspeed.deepspeed_distributor import DeepspeedTorchDistributor
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from xampler.errors import TrainingError
from xampler.models.build import encoder_id
from xampler.pipeline.context import Context
from xampler.pipeline.mine import mine_part
from xampler.pipeline.session import output_to
from xampler.pipeline.stage import Outcome, Part, fingerprint
from xampler.tables.schema import CANDIDATES, TRAINING_PAIRS
from xampler.tracking.run import Run
from xampler.training.recipe import RESULT_FILE, TrainingSpec

logger = logging.getLogger(__name__)


def train_part(context: Context, recipe: str) -> Part:
    """The stage for one recipe."""
    part = Part(
        stage="train",
        name=recipe,
        depends=lambda: _depends(context, recipe),
        run=lambda run: train_with_recipe(context, recipe, part, run),
        before=(mine_part(context),),
        reads=(TRAINING_PAIRS, CANDIDATES),
        still_there=lambda result: Path(result["model_dir"]).is_dir(),
    )
    return part


def train_parts(context: Context) -> list[Part]:
    """All recipes of the experiment."""
    return [train_part(context, recipe) for recipe in context.experiment.train.recipes]


def train_with_recipe(context: Context, recipe: str, part: Part, run: Run) -> Outcome:
    """Train one retriever; its folder is named by everything that it depends on.

    Raises:
        TrainingError: training did not end well; the message names the log file.
    """
    root = Path(context.engines.env.work_dir).resolve() / context.name / "retrievers"
    output = root / f"{recipe}-{fingerprint(context, part)[:12]}"
    pairs = _training_rows(context).persist()
    rows = pairs.count()
    if not (output / RESULT_FILE).is_file():
        _launch(context, _export(context, pairs, recipe, output))
    pairs.unpersist()
    result = json.loads((output / RESULT_FILE).read_text(encoding="utf-8"))
    run.log_folder(output, "retriever")
    _log_history(run, result)
    for warning in result["warnings"]:
        logger.warning("train/%s: %s", recipe, warning)
    figures = {"mean_cosine_before": result["mean_cosine"], "engine_seconds": result["seconds"]}
    if result["best"] is not None:
        figures["held_out_map"] = result["best"]
    return Outcome(rows, metrics=figures, result={"model_dir": str(output)})


def _training_rows(context: Context) -> DataFrame:
    pool = context.store.read(CANDIDATES, experiment=context.name)
    queries = pool.select(F.col("candidate_id").alias("query_id"), F.col("text").alias("query_text"))
    candidates = pool.select("candidate_id", F.col("text").alias("candidate_text"))
    return (
        context.store.read(TRAINING_PAIRS, experiment=context.name)
        .join(queries, on="query_id", how="inner")
        .join(candidates, on="candidate_id", how="inner")
        .select("query_id", "query_text", "candidate_id", "candidate_text", "role", "split")
    )


def _export(context: Context, pairs: DataFrame, recipe: str, output: Path) -> Path:
    """Write shards and spec beside the model's place; returns the spec's path."""
    config = context.experiment.train
    shards = output.with_name(output.name + ".shards")
    shutil.rmtree(shards, ignore_errors=True)
    pairs.write.parquet(str(shards))
    spec = TrainingSpec(
        encoder=config.encoder,
        recipe=config.recipes[recipe],
        shards=str(shards),
        output=str(output),
        ranks=config.ranks,
    )
    path = output.with_name(output.name + ".json")
    path.write_text(spec.model_dump_json(), encoding="utf-8")
    return path


def _launch(context: Context, spec: Path) -> None:
    config = context.experiment.train
    # Where Spark was told of no GPU, local ranks still see what CUDA shows them.
    role = "driver" if config.on_driver else "task"
    gpus = int(context.spark.conf.get(f"spark.{role}.resource.gpu.amount", "0") or 0)
    log_file = context.engines.log_file
    # Imported here: DeepSpeed takes seconds to import, and only the ranks need it.
    from xampler.training.loop import train_retriever

    logger.info("training on %d rank(s); messages of the ranks: %s", config.ranks, log_file)
    try:
        with output_to(log_file):
            distributor = DeepspeedTorchDistributor(
                numGpus=config.ranks, nnodes=1, localMode=config.on_driver, useGpu=gpus > 0
            )
            distributor.run(train_retriever, str(spec))
    except (RuntimeError, OSError) as error:
        # The ranks' errors arrive as text, with a hundred lines of their output.
        said = re.findall(r"xampler\.errors\.\w+: (.*)", str(error))
        reason = said[-1] if said else "training did not end well"
        raise TrainingError(f"{reason}; the messages of the ranks are in {log_file}") from error


def _log_history(run: Run, result: dict[str, Any]) -> None:
    for entry in result["history"]:
        values = {
            key: value for key, value in entry.items() if isinstance(value, float | int) and key != "step"
        }
        run.log_metrics({f"train/{key}": value for key, value in values.items()}, step=entry["step"])


def _depends(context: Context, recipe: str) -> dict[str, Any]:
    config = context.experiment.train
    return {
        "recipe": config.recipes[recipe].model_dump(mode="json"),
        "encoder": encoder_id(config.encoder),
        "ranks": config.ranks,
    }
