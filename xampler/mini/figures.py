"""All figures that a model card shows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from transformers import LlamaForCausalLM, XLMRobertaModel

from xampler.config import Config
from xampler.mini.data import TokenisedSplit
from xampler.mini.fine_tuning import FineTuningConfig, fine_tune
from xampler.mini.measure import (
    Judgements,
    MeasureConfig,
    Retrieval,
    Share,
    measure_judgements,
    measure_prompts,
    measure_retrieval,
    prompt_sample,
    random_demonstrations,
)
from xampler.mini.prompts import PromptTokens

logger = logging.getLogger(__name__)


class FiguresConfig(Config):
    """How the fine-tuned encoder is made, and how much is measured."""

    fine_tuning: FineTuningConfig = FineTuningConfig()
    measure: MeasureConfig = MeasureConfig()


@dataclass(frozen=True)
class SplitFigures:
    """Everything measured on one split.

    Attributes:
        languages: languages of the split; retrieval is measured in all of them.
        retrieval: by encoder, ``untrained`` and ``fine-tuned``.
        prompt_queries: queries that were put to the language model for each row of ``prompts``.
        prompts: accuracy by choice of demonstrations.
    """

    languages: int
    retrieval: Mapping[str, Retrieval]
    prompt_queries: int
    prompts: Mapping[str, Share]
    judgements: Judgements


def measure_models(
    encoder: XLMRobertaModel,
    language_model: LlamaForCausalLM,
    train: TokenisedSplit,
    splits: Mapping[str, TokenisedSplit],
    tokens: PromptTokens,
    config: FiguresConfig,
    seed: int,
) -> dict[str, SplitFigures]:
    """Measure both models, and what fine-tuning makes of the encoder, on each split.

    Args:
        tokens: template and the labels of ``train``.
    """
    pool = [train.ids_S[row] for row in train.pool_rows()]
    tuned = fine_tune(encoder, pool, train.corpus.label_M, config.fine_tuning, seed)
    encoders = {"untrained": encoder, "fine-tuned": tuned}
    figures = {}
    for name, split in splits.items():
        figures[name] = _measure_split(encoders, language_model, train, split, tokens, config.measure, seed)
        logger.info("measured on %s: %s", name, _summary(figures[name]))
    return figures


def _measure_split(
    encoders: dict[str, XLMRobertaModel],
    language_model: LlamaForCausalLM,
    train: TokenisedSplit,
    split: TokenisedSplit,
    tokens: PromptTokens,
    config: MeasureConfig,
    seed: int,
) -> SplitFigures:
    retrieval = {name: measure_retrieval(encoder, train, split, config) for name, encoder in encoders.items()}
    rows = prompt_sample(split.corpus, config)
    chosen = {
        "none": np.zeros((len(rows), 0), dtype=np.int64),
        "random": random_demonstrations(len(rows), len(train.corpus.label_M), config.demonstrations, seed),
        **{name: found.top_SK[rows][:, : config.demonstrations] for name, found in retrieval.items()},
    }
    prompts = {
        name: measure_prompts(language_model, tokens, train, split, rows, top, config)
        for name, top in chosen.items()
    }
    judgements = measure_judgements(
        language_model, tokens, train, split, retrieval["untrained"].top_SK, config, seed
    )
    return SplitFigures(len(split.corpus.langs), retrieval, len(rows), prompts, judgements)


def _summary(figures: SplitFigures) -> str:
    accuracy = [f"{name} {100 * share.others:.1f}" for name, share in figures.prompts.items()]
    return "accuracy by demonstrations, not English: " + ", ".join(accuracy)
