"""Train: training pairs to retrievers, one per recipe, by DeepSpeed ranks that Spark launches."""

import json
import logging
import re
from pathlib import Path
from typing import Any

from pyspark.ml.deepspeed.deepspeed_distributor import DeepspeedTorchDistributor

from xampler.errors import TrainingError
from xampler.models.build import EncoderConfig, encoder_id
from xampler.pipeline.context import Context
from xampler.pipeline.mine import mine_part
from xampler.pipeline.rounds import propose_by_retriever
from xampler.pipeline.stage import Outcome, Part, fingerprint
from xampler.pipeline.training_progress import show_steps
from xampler.pipeline.training_set import export_training_set
from xampler.tables.schema import CANDIDATES, PAIRS, QUERIES, SCORES, TRAINING_PAIRS
from xampler.tracking.run import Run
from xampler.training.recipe import RESULT_FILE, TrainingSpec, work_folder

logger = logging.getLogger(__name__)


def train_part(context: Context, recipe: str) -> Part:
    """The stage for one recipe."""
    iterates = context.experiment.train.recipes[recipe].rounds > 1
    part = Part(
        stage="train",
        name=recipe,
        depends=lambda: _depends(context, recipe),
        run=lambda run: train_with_recipe(context, recipe, part, run),
        before=(mine_part(context),),
        reads=(TRAINING_PAIRS, CANDIDATES, QUERIES),
        writes=(PAIRS, SCORES, TRAINING_PAIRS) if iterates else (),
        still_there=lambda result: Path(result["model_dir"]).is_dir(),
    )
    return part


def train_parts(context: Context) -> list[Part]:
    """All recipes of the experiment."""
    return [train_part(context, recipe) for recipe in context.experiment.train.recipes]


def train_with_recipe(context: Context, recipe: str, part: Part, run: Run) -> Outcome:
    """Train one retriever, in as many rounds as the recipe has; rounds that are finished are kept.

    Its folder is named by everything that it depends on.

    Raises:
        TrainingError: training did not end well; the message names the log file.
    """
    root = Path(context.engines.env.work_dir).resolve() / context.name / "retrievers"
    folder = root / f"{recipe}-{fingerprint(context, part)[:12]}"
    encoder, rounds = context.experiment.train.encoder, context.experiment.train.recipes[recipe].rounds
    results: list[dict[str, Any]] = []
    prompts = 0
    for number in range(1, rounds + 1):
        output = folder if number == rounds else folder.with_name(f"{folder.name}.round{number}")
        if not (output / RESULT_FILE).is_file():
            if number > 1:
                scored = propose_by_retriever(context, recipe, number, encoder, run.run_id)
                prompts += scored.prompts
                run.log_metrics({"train/new_prompts": scored.prompts}, step=number)
            spec = _write_spec(context, recipe, number, encoder, output)
            what = f"train/{recipe}" + (f", round {number} of {rounds}" if rounds > 1 else "")
            _launch(context, spec, what, work_folder(output))
        results.append(json.loads((output / RESULT_FILE).read_text(encoding="utf-8")))
        encoder = as_trained(encoder, str(output))
    run.log_folder(folder, "retriever")
    _log_history(run, results)
    for warning in dict.fromkeys(warning for result in results for warning in result["warnings"]):
        logger.warning("train/%s: %s", recipe, warning)
    _say_parallel(recipe, results)
    rows = context.store.read(TRAINING_PAIRS, experiment=context.name).count()
    return Outcome(rows, prompts, metrics=_figures(results), result={"model_dir": str(folder)})


def as_trained(encoder: EncoderConfig, folder: str) -> EncoderConfig:
    """The encoder that was trained from ``encoder`` into ``folder``, which says its pooling and layers."""
    update = {"model": folder, "revision": None, "layer": None, "pooling": None}
    return encoder.model_copy(update=update)


def _write_spec(context: Context, recipe: str, number: int, encoder: EncoderConfig, output: Path) -> Path:
    """Write shards and spec beside the model's place; returns the spec's path."""
    config = context.experiment.train
    exported = export_training_set(context, recipe, number, output)
    spec = TrainingSpec(
        encoder=encoder,
        recipe=config.recipes[recipe],
        engine=config.engine,
        shards=exported.shards,
        parallel=exported.parallel,
        pool_lang=context.experiment.pool_lang,
        output=str(output),
        ranks=config.ranks,
    )
    path = output.with_name(output.name + ".json")
    path.write_text(spec.model_dump_json(), encoding="utf-8")
    return path


def _launch(context: Context, spec: Path, what: str, work: Path) -> None:
    config = context.experiment.train
    # Where Spark was told of no GPU, local ranks still see what CUDA shows them.
    role = "driver" if config.on_driver else "task"
    gpus = int(context.spark.conf.get(f"spark.{role}.resource.gpu.amount", "0") or 0)
    log_file = context.engines.log_file
    # Imported here: DeepSpeed takes seconds to import, and only the ranks need it.
    from xampler.training.loop import train_retriever

    logger.info("training on %d rank(s); messages of the ranks: %s", config.ranks, log_file)
    try:
        with show_steps(context.engines.progress, what, work, log_file):
            distributor = DeepspeedTorchDistributor(
                numGpus=config.ranks, nnodes=1, localMode=config.on_driver, useGpu=gpus > 0
            )
            distributor.run(train_retriever, str(spec))
    except (RuntimeError, OSError) as error:
        # The ranks' errors arrive as text, with a hundred lines of their output.
        said = re.findall(r"xampler\.errors\.\w+: (.*)", str(error))
        reason = said[-1] if said else "training did not end well"
        raise TrainingError(f"{reason}; the messages of the ranks are in {log_file}") from error


def _log_history(run: Run, results: list[dict[str, Any]]) -> None:
    """All rounds as one curve."""
    before = 0
    for result in results:
        for entry in result["history"]:
            values = {
                f"train/{key}": value
                for key, value in entry.items()
                if isinstance(value, float | int) and key != "step"
            }
            run.log_metrics(values, step=before + entry["step"])
        before += result["history"][-1]["step"]


def _figures(results: list[dict[str, Any]]) -> dict[str, float]:
    first, last = results[0], results[-1]
    figures = {
        "mean_cosine_before": first["mean_cosine"],
        "engine_seconds": sum(result["seconds"] for result in results),
        "vocabulary_rows_trained": last["trained_rows"],
        **{f"{name}_before": value for name, value in first["before"].items()},
        **{f"{name}_after": value for name, value in last["after"].items()},
    }
    return figures if last["best"] is None else figures | {"best": last["best"]}


def _say_parallel(recipe: str, results: list[dict[str, Any]]) -> None:
    before, after = results[0]["before"].get("parallel"), results[-1]["after"].get("parallel")
    if before is not None and after is not None:
        logger.info(
            "train/%s: parallel dev texts that find each other: %.1f%% before, %.1f%% after",
            recipe,
            100 * before,
            100 * after,
        )


def _depends(context: Context, recipe: str) -> dict[str, Any]:
    config = context.experiment.train
    return {
        "recipe": config.recipes[recipe].model_dump(mode="json"),
        "encoder": encoder_id(config.encoder),
        "engine": config.engine.model_dump(mode="json"),
        "ranks": config.ranks,
    }
