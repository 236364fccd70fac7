"""Train: training pairs to retrievers, one per recipe, by DeepSpeed ranks that Spark launches."""

import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.ml.deepspeed.deepspeed_distributor import DeepspeedTorchDistributor
from pyspark.sql import functions as F

from xampler.errors import ConfigError, TrainingError
from xampler.models.build import EncoderConfig, encoder_id
from xampler.pipeline.context import Context
from xampler.pipeline.experiment import TrainConfig, recipe_faults
from xampler.pipeline.mine import mine_part
from xampler.pipeline.rounds import propose_by_retriever, proposers_of
from xampler.pipeline.stage import Outcome, Part, fingerprint
from xampler.pipeline.training_progress import show_steps, why_it_broke_off
from xampler.pipeline.training_set import TrainingSet, export_training_set
from xampler.tables.schema import CANDIDATES, PAIRS, QUERIES, SCORES, TRAINING_PAIRS
from xampler.tracking.run import Run
from xampler.training.recipe import RESULT_FILE, TrainingSpec, work_folder

logger = logging.getLogger(__name__)

SETTLED = ("batch_size", "steps")  # of a result: what the recipe's wish came to


def train_part(context: Context, recipe: str) -> Part:
    """The stage for one recipe."""
    iterates = context.experiment.train.recipes[recipe].rounds > 1
    part = Part(
        stage="train",
        name=recipe,
        depends=lambda: _depends(context, recipe),
        run=lambda run: train_with_recipe(context, recipe, part, run),
        before=(mine_part(context),),
        reads=(CANDIDATES, QUERIES),  # and TRAINING_PAIRS, each round another version: it logs them itself
        writes=(PAIRS, SCORES, TRAINING_PAIRS) if iterates else (),
        still_there=lambda result: Path(result["model_dir"]).is_dir(),
    )
    return part


def train_parts(context: Context) -> list[Part]:
    """All recipes of the experiment.

    Raises:
        ConfigError: the config shows that one of them cannot be trained.
    """
    recipes = context.experiment.train.recipes
    faults = recipe_faults(context.experiment, recipes)
    if faults:
        raise ConfigError("; ".join(faults))
    return [train_part(context, recipe) for recipe in recipes]


@dataclass(frozen=True)
class Round:
    """What a finished round came to."""

    result: dict[str, Any]  # as the ranks returned it
    pairs_version: int  # Delta version of training_pairs that it was trained on


def train_with_recipe(context: Context, recipe: str, part: Part, run: Run) -> Outcome:
    """Train one retriever, in as many rounds as the recipe has; rounds that are finished are kept.

    Its folder is named by everything that it depends on. What a run that goes on would read lies beside
    it, and goes when the retriever is complete.

    Raises:
        TrainingError: the ranks could not be launched, or broke off; the message says why.
    """
    root = Path(context.engines.env.work_dir).resolve() / context.name / "retrievers"
    folder = root / f"{recipe}-{fingerprint(context, part)[:12]}"
    encoder, rounds = context.experiment.train.encoder, context.experiment.train.recipes[recipe].rounds
    known = _known_rounds(folder)
    done: list[Round] = []
    prompts = 0
    for number in range(1, rounds + 1):
        output = folder if number == rounds else folder.with_name(f"{folder.name}.round{number}")
        if known:
            done.append(known[number - 1])
        else:
            finished, new_prompts = _train_round(context, recipe, number, encoder, output, run)
            done.append(finished)
            prompts += new_prompts
        _log_round(run, done, rounds)
        encoder = as_trained(encoder, str(output))
    # Its pairs are those of all rounds.
    run.log_params({f"version_in.{TRAINING_PAIRS.name}": done[-1].pairs_version})
    run.log_folder(folder, "retriever")
    results = [finished.result for finished in done]
    for warning in dict.fromkeys(warning for result in results for warning in result["warnings"]):
        logger.warning("train/%s: %s", recipe, warning)
    _say_parallel(recipe, results)
    pairs = context.store.read(TRAINING_PAIRS, experiment=context.name)
    rows = pairs.where(F.col("proposer").isin(proposers_of(recipe, rounds))).count()
    _complete(folder, done)
    return Outcome(rows, prompts, metrics=_figures(results), result={"model_dir": str(folder)})


def as_trained(encoder: EncoderConfig, folder: str) -> EncoderConfig:
    """The encoder that was trained from ``encoder`` into ``folder``, which says its pooling and layers."""
    update = {"model": folder, "revision": None, "layer": None, "pooling": None}
    return encoder.model_copy(update=update)


def _train_round(
    context: Context, recipe: str, number: int, encoder: EncoderConfig, output: Path, run: Run
) -> tuple[Round, int]:
    """The round in ``output``, trained if it is not there yet, and the prompts that its pairs cost now."""
    prompts, trained = 0, (output / RESULT_FILE).is_file()
    if number > 1 and not trained:
        prompts = propose_by_retriever(context, recipe, number, encoder, run.run_id).prompts
        run.log_metrics({"train/new_prompts": prompts}, step=number)
    training_set = export_training_set(context, recipe, number, output)
    if not trained:
        rounds = context.experiment.train.recipes[recipe].rounds
        spec = _write_spec(context, recipe, encoder, training_set, output)
        what = f"train/{recipe}" + (f", round {number} of {rounds}" if rounds > 1 else "")
        _launch(context, spec, what, work_folder(output))
    result = json.loads((output / RESULT_FILE).read_text(encoding="utf-8"))
    return Round(result, training_set.version), prompts


def _known_rounds(folder: Path) -> list[Round]:
    """The rounds of a retriever that is complete; empty if it is not."""
    file = _rounds_file(folder)
    if not file.is_file() or not (folder / RESULT_FILE).is_file():
        return []
    return [Round(**values) for values in json.loads(file.read_text(encoding="utf-8"))]


def _complete(folder: Path, rounds: list[Round]) -> None:
    """Keep what the rounds came to, and drop the folders that only a run that goes on would read."""
    file = _rounds_file(folder)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps([asdict(finished) for finished in rounds]), encoding="utf-8")
    partial.rename(file)
    for other in folder.parent.iterdir():
        if other.is_dir() and other.name.startswith(f"{folder.name}."):
            shutil.rmtree(other, ignore_errors=True)


def _rounds_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.rounds.json")


def _write_spec(
    context: Context, recipe: str, encoder: EncoderConfig, training_set: TrainingSet, output: Path
) -> Path:
    """Write the ranks' spec beside the model's place; returns its path."""
    config = context.experiment.train
    spec = TrainingSpec(
        encoder=encoder,
        recipe=config.recipes[recipe],
        engine=config.engine,
        shards=training_set.shards,
        parallel=training_set.parallel,
        pool_lang=context.experiment.pool_lang,
        output=str(output),
        ranks=config.ranks,
    )
    path = output.with_name(output.name + ".json")
    path.write_text(spec.model_dump_json(), encoding="utf-8")
    return path


def _launch(context: Context, spec: Path, what: str, work: Path) -> None:
    config = context.experiment.train
    role = "driver" if config.on_driver else "task"
    key = f"spark.{role}.resource.gpu.amount"
    gpus = gpus_to_use(key, context.spark.conf.get(key, None), config)
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
    except (RuntimeError, OSError, ValueError, Py4JJavaError, PySparkException) as error:
        raise TrainingError(why_it_broke_off(str(error), log_file)) from error


def gpus_to_use(key: str, amount: str | None, config: TrainConfig) -> int:
    """GPUs that Spark gives to the driver or to each task, as its setting ``key`` says.

    0 where it was told of none: local ranks then still see what CUDA shows them.

    Raises:
        TrainingError: a rank would get part of a GPU, or none where others get one.
    """
    amount = amount or "0"
    if not amount.isdigit():
        raise TrainingError(
            f"{key} is {amount}, and a rank needs whole GPUs; give 1 under spark.conf of the environment file"
        )
    gpus = int(amount)
    if config.on_driver and 0 < gpus < config.ranks:
        raise TrainingError(
            f"train.ranks is {config.ranks}, and the driver has {gpus} by {key}; give as many ranks as GPUs"
        )
    return gpus


def _log_round(run: Run, done: list[Round], rounds: int) -> None:
    """The last round of ``done``: its parameters, and its steps as a part of one curve."""
    *earlier, last = done
    prefix = f"round{len(done)}." if rounds > 1 else ""
    settled = {name: last.result[name] for name in SETTLED if name in last.result}
    params = {f"version_in.{TRAINING_PAIRS.name}": last.pairs_version, **settled}
    run.log_params({prefix + name: value for name, value in params.items()})
    before = sum(finished.result["history"][-1]["step"] for finished in earlier)
    for entry in last.result["history"]:
        values = {
            f"train/{key}": value
            for key, value in entry.items()
            if isinstance(value, float | int) and key != "step"
        }
        run.log_metrics(values, step=before + entry["step"])


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
