"""Train a retriever: sentence-transformers' trainer and losses, under DeepSpeed.

Shapes: N texts, D dimensions.
"""

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from transformers import EarlyStoppingCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from xampler.core.pairing import HELD_OUT
from xampler.errors import TrainingError
from xampler.training.checkpoint import (
    KeepWholeCheckpoints,
    ends_training,
    last_whole_checkpoint,
    step_of,
)
from xampler.training.dataset import Epoch, RowPlan, plan_rows, training_queries, training_rows
from xampler.training.deepspeed_engine import deepspeed_dict, prepare_engine
from xampler.training.embeddings import choose_trained_rows
from xampler.training.evaluation import (
    MAX_HELD_OUT,
    HeldOutEvaluator,
    has_parallels,
    read_parallels,
)
from xampler.training.losses import build_loss
from xampler.training.recipe import RESULT_FILE, ContrastiveRecipe, Recipe, TrainingSpec, work_folder
from xampler.training.shards import JudgedQuery, stream_queries
from xampler.training.start import load_starting_encoder
from xampler.training.steps import TellSteps
from xampler.training.trainer import RetrieverTrainer

logger = logging.getLogger(__name__)

COSINE_TEXTS, COSINE_PAIRS = 1000, 2000
# Fewer negatives than this inside the margin, and the contrastive loss pulls together only.
MIN_SHARE_IN_MARGIN = 0.05
LOG_ENTRIES = 50


def train_retriever(spec_file: str) -> dict[str, Any]:
    """Train by the spec in ``spec_file`` (JSON of TrainingSpec); every rank calls this.

    A run that was killed goes on from its last whole checkpoint, with the rows that come next.

    Returns:
        ``history`` (the trainer's log entries), ``best`` (the recipe's metric at the kept checkpoint,
        before the share of the starting weights goes in; None where the last weights are kept),
        ``before`` and ``after`` (figures of ``evaluation.py`` for the starting and for the kept weights),
        ``mean_cosine`` of random pairs before training, ``batch_size`` (rows a step, as it could be had),
        ``steps`` of the plan, ``warnings``, ``trained_rows`` of the vocabulary, ``seconds`` of this process.

    Raises:
        TrainingError: the shards lack what the loss, the metric or patience needs.
        ModelError: the encoder cannot be loaded.
    """
    spec = TrainingSpec.model_validate_json(Path(spec_file).read_text(encoding="utf-8"))
    output = Path(spec.output)
    with _alone(output):
        if (output / RESULT_FILE).is_file():
            result: dict[str, Any] = json.loads((output / RESULT_FILE).read_text(encoding="utf-8"))
            return result
        return _train(spec, output)


def _train(spec: TrainingSpec, output: Path) -> dict[str, Any]:
    prepare_engine()
    started = time.monotonic()
    epoch = training_queries(spec.shards, spec.recipe)
    plan = plan_rows(epoch, spec.recipe, spec.ranks * spec.engine.accumulation_steps)
    evaluator = read_evaluator(spec)
    warnings = [*plan.warnings, *check_choice(evaluator, spec.recipe)]
    model = load_starting_encoder(spec.encoder).to(rank_device())
    before = evaluator(model) if evaluator else {}
    longest = model.max_seq_length
    warnings += shorten_texts(model, spec)
    mean_cosine, margin_warnings = check_cosines(model, list(islice(epoch(), COSINE_TEXTS)), spec.recipe)
    warnings += margin_warnings
    for warning in warnings:
        logger.warning(warning)
    start = _copy(model) if spec.recipe.start_share else {}
    trained_rows = choose_trained_rows(model, spec.recipe, _texts(epoch))
    if spec.engine.gradient_checkpointing:
        transformer: Any = model[0]
        transformer.auto_model.gradient_checkpointing_enable({"use_reentrant": False})
    work = work_folder(output)
    trainer = build_trainer(model, epoch, plan, evaluator, spec, work)
    checkpoint = last_whole_checkpoint(work)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    result = {
        "history": trainer.state.log_history,
        "best": trainer.state.best_metric,
        "before": before,
        "mean_cosine": mean_cosine,
        "batch_size": plan.batch_size,
        "steps": plan.steps,
        "warnings": warnings,
        "trained_rows": trained_rows,
        "seconds": time.monotonic() - started,
    }
    model.max_seq_length = longest  # shorter texts are for training alone
    unset_hf_deepspeed_config()  # at ZeRO-3 every model loaded from here on would be sharded
    with trainer.whole(change=bool(start)):
        if start:
            keep_share_of_start(trainer.model, start, spec.recipe.start_share)
        if trainer.is_world_process_zero():
            result = _save(trainer.model, output, work, evaluator, result)
    return result


def build_trainer(
    model: SentenceTransformer,
    epoch: Epoch,
    plan: RowPlan,
    evaluator: HeldOutEvaluator,
    spec: TrainingSpec,
    work: Path,
) -> RetrieverTrainer:
    """The library's trainer; checkpoints go to ``work``, and rows begin after those of the last one."""
    patience = spec.recipe.patience
    return RetrieverTrainer(
        model=model,
        args=training_arguments(spec, work, plan, evaluator),
        train_dataset=training_rows(epoch, spec.recipe, plan, _first_step(work, plan)),
        loss=build_loss(model, spec.recipe, spec.ranks),
        evaluator=evaluator if evaluator else None,
        callbacks=[
            KeepWholeCheckpoints(),
            TellSteps(),
            *([EarlyStoppingCallback(patience)] if patience else []),
        ],
    )


def training_arguments(
    spec: TrainingSpec, work: Path, plan: RowPlan, evaluator: HeldOutEvaluator
) -> SentenceTransformerTrainingArguments:
    """Arguments of the trainer; the best checkpoint is kept where the recipe's metric can be had."""
    recipe, engine = spec.recipe, spec.engine
    warmup = round(recipe.warmup_share * plan.steps) if recipe.warmup_steps is None else recipe.warmup_steps
    chooses = _can_choose(evaluator, recipe)
    named = recipe.metric if recipe.metric == "parallel" else f"held_out_{recipe.metric}"
    return SentenceTransformerTrainingArguments(
        output_dir=str(work),
        max_steps=plan.steps,
        per_device_train_batch_size=plan.batch_size // (spec.ranks * engine.accumulation_steps),
        gradient_accumulation_steps=engine.accumulation_steps,
        bf16=engine.bf16,
        learning_rate=recipe.learning_rate,
        warmup_steps=warmup,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type="linear",
        seed=recipe.seed,
        prompts=spec.encoder.prefix or None,
        eval_strategy="steps" if evaluator else "no",
        eval_steps=recipe.evaluate_every,
        save_strategy="steps",
        save_steps=recipe.evaluate_every,
        load_best_model_at_end=chooses,
        metric_for_best_model=f"eval_{named}" if chooses else None,
        greater_is_better=True if chooses else None,
        logging_steps=_log_every(plan.steps, recipe.evaluate_every),
        # The rows come in the order of the steps, and start where the checkpoint ends (dataset.py):
        # each rank takes its part of every batch, and none is skipped.
        accelerator_config={"dispatch_batches": False},
        ignore_data_skip=True,
        restore_callback_states_from_checkpoint=True,  # patience goes on counting
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        deepspeed=deepspeed_dict(engine),
    )


def read_evaluator(spec: TrainingSpec) -> HeldOutEvaluator:
    """What is measured during training; false if there is nothing to measure with.

    Raises:
        TrainingError: the recipe's metric needs parallel texts, and there are none.
    """
    held_out = list(islice(stream_queries(spec.shards, HELD_OUT, spec.recipe), MAX_HELD_OUT))
    parallels = read_parallels(spec.parallel)
    if spec.recipe.metric == "parallel" and not has_parallels(parallels, spec.pool_lang):
        raise TrainingError(
            "metric: parallel needs dev texts with a parallel_id in the pool's language and in another; "
            "select dev languages, or choose another metric"
        )
    return HeldOutEvaluator(held_out, parallels, spec.pool_lang)


def check_choice(evaluator: HeldOutEvaluator, recipe: Recipe) -> list[str]:
    """A warning where no checkpoint can be told to be the best, so that the last weights are kept.

    Raises:
        TrainingError: nor can it be told when to stop, and the recipe has patience.
    """
    if _can_choose(evaluator, recipe):
        return []
    cause = "no held-out query has both a positive and a negative candidate"
    remedy = "raise mine.held_out_share, propose more candidates, or give metric: parallel"
    if recipe.patience:
        raise TrainingError(
            f"patience: {recipe.patience} cannot tell when training gets no better: {cause}; {remedy}, or "
            "leave patience out"
        )
    return [f"{cause}, so that the weights of the last step are kept, not the best ones; {remedy}"]


def rank_device() -> torch.device:
    """The device that DeepSpeed gives this rank."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def shorten_texts(model: SentenceTransformer, spec: TrainingSpec) -> list[str]:
    """Cut texts at the recipe's tokens; returns a warning where the model takes fewer than were asked for."""
    longest = model.max_seq_length or spec.recipe.max_tokens
    asked = min(spec.recipe.max_tokens, spec.encoder.max_tokens)
    model.max_seq_length = min(asked, longest)
    if asked <= longest:
        return []
    return [
        f"max_tokens {asked}: {spec.encoder.model} takes texts of {longest} tokens at most, by its positions "
        "or its folder's limit; longer ones are cut there"
    ]


def keep_share_of_start(model: SentenceTransformer, start: dict[str, torch.Tensor], share: float) -> None:
    """Move the weights by ``share`` of the way back to ``start`` (weights by name), in place."""
    mixed = {
        name: weight.lerp(start[name].to(weight), share) if weight.is_floating_point() else weight
        for name, weight in model.state_dict().items()
    }
    model.load_state_dict(mixed)


def check_cosines(
    model: SentenceTransformer, queries: Sequence[JudgedQuery], recipe: Recipe
) -> tuple[float, list[str]]:
    """Mean cosine of random pairs of query texts, and a warning where the margin cannot bite.

    With cosines near 0 every negative already lies beyond the margin: only positives act, and all
    vectors collapse into one.
    """
    texts = [query.text for query in queries]
    emb_ND = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    rng = np.random.default_rng(recipe.seed)
    first, second = rng.integers(len(texts), size=(2, COSINE_PAIRS))
    different = first != second
    cosines = (emb_ND[first[different]] * emb_ND[second[different]]).sum(axis=1)
    mean = float(cosines.mean()) if len(cosines) else 1.0
    if not isinstance(recipe, ContrastiveRecipe) or not len(cosines):
        return mean, []
    if (cosines > 1 - recipe.margin).mean() < MIN_SHARE_IN_MARGIN:
        warning = (
            f"random pairs have a mean cosine of {mean:.2f}, so that nearly no negative lies within the "
            f"margin {recipe.margin}: the contrastive loss can only pull together; raise the margin or "
            "use infonce"
        )
        return mean, [warning]
    return mean, []


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Wait for another process that trains the same retriever: ranks may outlive a killed driver."""
    lock = output.with_name(f"{output.name}.rank{os.environ.get('RANK', '0')}.lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _first_step(work: Path, plan: RowPlan) -> int:
    """The step to go on from: beyond the last one, which leaves no row, where training was to stop."""
    checkpoint = last_whole_checkpoint(work)
    if checkpoint is None:
        return 0
    return plan.steps if ends_training(checkpoint) else step_of(checkpoint)


def _can_choose(evaluator: HeldOutEvaluator, recipe: Recipe) -> bool:
    return bool(evaluator.queries) or recipe.metric == "parallel"


def _texts(epoch: Epoch) -> Iterator[str]:
    for query in epoch():
        yield query.text
        yield from (candidate.text for candidate in query.candidates)


def _copy(model: SentenceTransformer) -> dict[str, torch.Tensor]:
    return {name: weight.to("cpu", copy=True) for name, weight in model.state_dict().items()}


def _log_every(steps: int, evaluate_every: int) -> int:
    """Some fifty entries, none of which spans a checkpoint: a run that goes on logs the same ones."""
    wanted = max(1, steps // LOG_ENTRIES)
    return max(every for every in range(1, wanted + 1) if evaluate_every % every == 0)


def _save(
    model: SentenceTransformer, output: Path, work: Path, evaluator: HeldOutEvaluator, result: dict[str, Any]
) -> dict[str, Any]:
    """Write the model beside its place and move it there whole, so that a half-written one is never taken."""
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save(str(partial), create_model_card=False)
    # What is measured is what is kept.
    kept = SentenceTransformer(str(partial), device=str(model.device))
    result = result | {"after": evaluator(kept) if evaluator else {}}
    (partial / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)
    shutil.rmtree(work, ignore_errors=True)
    return result
