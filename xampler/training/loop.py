"""Train a retriever: sentence-transformers' trainer and losses, under DeepSpeed.

Shapes: N texts, D dimensions.
"""

import copy
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.evaluation import RerankingEvaluator
from sentence_transformers.sentence_transformer.losses import ContrastiveLoss, MultipleNegativesRankingLoss
from torch.utils.data import SequentialSampler

from xampler.core.pairing import HELD_OUT, TRAIN
from xampler.training.dataset import JudgedQuery, held_out_samples, read_queries, training_rows
from xampler.training.deepspeed_engine import deepspeed_dict, prepare_engine
from xampler.training.recipe import (
    RESULT_FILE,
    ContrastiveRecipe,
    InfoNceRecipe,
    Recipe,
    TrainingSpec,
)
from xampler.training.start import load_starting_encoder

logger = logging.getLogger(__name__)

PRIMARY_METRIC = "eval_held_out_map"
COSINE_PAIRS = 2000
# Fewer negatives than this inside the margin, and the contrastive loss pulls together only.
MIN_SHARE_IN_MARGIN = 0.05


def train_retriever(spec_file: str) -> dict[str, Any]:
    """Train by the spec in ``spec_file`` (JSON of TrainingSpec); every rank calls this.

    Returns:
        ``history`` (the trainer's log entries), ``best`` (held-out MAP of the kept checkpoint, before
        the share of the starting weights goes in),
        ``mean_cosine`` of random pairs before training, ``warnings``, ``seconds``.

    Raises:
        TrainingError: the shards lack what the loss needs.
        ModelError: the encoder cannot be loaded.
    """
    spec = TrainingSpec.model_validate_json(Path(spec_file).read_text(encoding="utf-8"))
    prepare_engine()
    started = time.monotonic()
    model = load_starting_encoder(spec.encoder)
    model.max_seq_length = spec.recipe.max_tokens
    queries, held_out = read_queries(spec.shards, TRAIN), read_queries(spec.shards, HELD_OUT)
    mean_cosine, warnings = check_cosines(model, queries, spec.recipe)
    work = Path(spec.output).with_name(Path(spec.output).name + ".work")
    start = copy.deepcopy(model.state_dict()) if spec.recipe.start_share else {}
    if spec.recipe.train_embeddings == "none":
        freeze_embeddings(model)
    trainer = build_trainer(model, queries, held_out, spec, work)
    trainer.train()
    if start:
        keep_share_of_start(trainer.model, start, spec.recipe.start_share)
    result = {
        "history": trainer.state.log_history,
        "best": trainer.state.best_metric,
        "mean_cosine": mean_cosine,
        "warnings": warnings,
        "seconds": time.monotonic() - started,
    }
    if trainer.is_world_process_zero():
        _save(trainer.model, Path(spec.output), work, result)
    return result


def build_trainer(
    model: SentenceTransformer,
    queries: list[JudgedQuery],
    held_out: list[JudgedQuery],
    spec: TrainingSpec,
    work: Path,
) -> SentenceTransformerTrainer:
    """The library's trainer; checkpoints go to ``work``."""
    rows, batch_size = training_rows(queries, spec.recipe, spec.ranks)
    samples = held_out_samples(held_out)
    evaluator = RerankingEvaluator(samples, name="held_out", show_progress_bar=False) if samples else None
    return SentenceTransformerTrainer(
        model=model,
        args=training_arguments(spec, work, batch_size, evaluates=evaluator is not None),
        train_dataset=rows,
        loss=build_loss(model, spec.recipe, spec.ranks),
        evaluator=evaluator,
    )


def training_arguments(
    spec: TrainingSpec, work: Path, batch_size: int, *, evaluates: bool
) -> SentenceTransformerTrainingArguments:
    """Arguments of the trainer for ``batch_size`` rows a step over all ranks.

    The best held-out checkpoint is kept where there is one to evaluate.
    """
    recipe = spec.recipe
    return SentenceTransformerTrainingArguments(
        output_dir=str(work),
        max_steps=recipe.steps,
        per_device_train_batch_size=batch_size // spec.ranks,
        learning_rate=recipe.learning_rate,
        warmup_steps=round(recipe.warmup_share * recipe.steps),
        weight_decay=recipe.weight_decay,
        lr_scheduler_type="linear",
        seed=recipe.seed,
        batch_sampler=InOrder,
        prompts=spec.encoder.prefix or None,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=recipe.evaluate_every,
        save_strategy="steps" if evaluates else "no",
        save_steps=recipe.evaluate_every,
        save_total_limit=2,
        load_best_model_at_end=evaluates,
        metric_for_best_model=PRIMARY_METRIC if evaluates else None,
        greater_is_better=True if evaluates else None,
        logging_steps=max(1, recipe.steps // 50),
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        deepspeed=deepspeed_dict(recipe),
    )


def freeze_embeddings(model: SentenceTransformer) -> None:
    """Leave the vocabulary's rows as they are: most of a multilingual encoder's parameters."""
    transformer: Any = model[0]
    transformer.auto_model.get_input_embeddings().requires_grad_(False)


def keep_share_of_start(model: SentenceTransformer, start: dict[str, torch.Tensor], share: float) -> None:
    """Move the weights by ``share`` of the way back to ``start`` (weights by name), in place."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.lerp_(start[name].to(weight), share)


def build_loss(model: SentenceTransformer, recipe: Recipe, ranks: int) -> torch.nn.Module:
    """The library's loss of the recipe; in-batch negatives are gathered over ranks, with gradients."""
    match recipe:
        case ContrastiveRecipe():
            return ContrastiveLoss(model, margin=recipe.margin)
        case InfoNceRecipe():
            return MultipleNegativesRankingLoss(
                model, scale=1 / recipe.temperature, gather_across_devices=ranks > 1
            )


def check_cosines(
    model: SentenceTransformer, queries: list[JudgedQuery], recipe: Recipe
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
        logger.warning(warning)
        return mean, [warning]
    return mean, []


class InOrder(DefaultBatchSampler):
    """Batches of the rows as they stand: they are drawn and ordered already (dataset.py)."""

    def __init__(self, dataset: Dataset, batch_size: int, drop_last: bool, **_: object) -> None:
        super().__init__(SequentialSampler(dataset), batch_size, drop_last)


def _save(model: SentenceTransformer, output: Path, work: Path, result: dict[str, Any]) -> None:
    """Write the model beside its place and move it there whole, so that a half-written one is never taken."""
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save(str(partial), create_model_card=False)
    (partial / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)
    shutil.rmtree(work, ignore_errors=True)
