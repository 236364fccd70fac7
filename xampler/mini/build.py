"""``xampler mini build``: both mini models, from the training splits of SIB-200 to two model folders."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM, PreTrainedModel, XLMRobertaModel

from xampler.config import Config
from xampler.errors import DataError
from xampler.mini.card import SplitFigures, encoder_card, language_model_card, write_card
from xampler.mini.data import POOL_LANG, ParallelCorpus, read_corpus
from xampler.mini.encoder import FILLERS, EncoderConfig, build_encoder, refine_encoder
from xampler.mini.fine_tuning import FineTuningConfig, fine_tune
from xampler.mini.language_model import LanguageModelConfig, build_language_model, word_embeddings
from xampler.mini.measure import (
    MeasureConfig,
    TokenisedSplit,
    measure_judgements,
    measure_prompts,
    measure_retrieval,
    prompt_sample,
    random_demonstrations,
)
from xampler.mini.prompts import LABELS, PHRASES, PromptTokens
from xampler.mini.saving import ENCODER, LANGUAGE_MODEL, save_encoder, save_language_model, write_folder
from xampler.mini.teacher import sentence_similarity, teacher_folder
from xampler.mini.tokenizer import TokenizerConfig, encode_flat, train_tokenizer
from xampler.mini.training import PromptSource, PromptTrainingConfig, train_on_prompts
from xampler.mini.vectors import (
    TokenVectors,
    VectorsConfig,
    count_tokens,
    out_of_fold_sentences,
    token_vectors,
)

logger = logging.getLogger(__name__)

SEED = 20_240


class MiniModelsConfig(Config):
    """Everything that shapes the two models."""

    tokenizer: TokenizerConfig = TokenizerConfig()
    vectors: VectorsConfig = VectorsConfig()
    encoder: EncoderConfig = EncoderConfig()
    language_model: LanguageModelConfig = LanguageModelConfig()
    prompts: PromptTrainingConfig = PromptTrainingConfig()
    fine_tuning: FineTuningConfig = FineTuningConfig()
    measure: MeasureConfig = MeasureConfig()
    with_teacher: bool = True  # False needs nothing but the data, and costs 2 points


@dataclass(frozen=True)
class _Material:
    """The training split and what is computed from it for both models."""

    tokenizer: Tokenizer
    train: TokenisedSplit
    vectors: TokenVectors


def build_mini_models(
    data: Path, output: Path, *, seed: int = SEED, config: MiniModelsConfig | None = None
) -> None:
    """Train, measure and write ``output/encoder`` and ``output/language_model``.

    Each folder is replaced as a whole once its model is complete.

    Args:
        data: SIB-200 in its published layout; training reads the train split, measuring dev and test.

    Raises:
        DataError: the data are missing or broken.
        ModelError: the teacher is not installed.
    """
    config = config or MiniModelsConfig()
    torch.set_num_threads(1)  # two threads on a busy two-core machine are slower than one
    splits = {split: read_corpus(data, split) for split in ("train", "dev", "test")}
    _check_labels(splits)
    material = _prepare(splits["train"], config, seed)
    with _timed("encoder"):
        encoder = _train_encoder(material, config, seed)
    with _timed("language model"):
        language_model = _train_language_model(material, config, seed)
    with _timed("measuring"):
        figures = _measure(encoder, language_model, material, splits, config, seed)
    _write(output, encoder, language_model, material, figures, config, seed)


def _check_labels(splits: dict[str, ParallelCorpus]) -> None:
    for split, corpus in splits.items():
        if corpus.labels != splits["train"].labels or not set(corpus.labels) <= set(LABELS):
            raise DataError(
                f"The {split} split has the labels {', '.join(corpus.labels)}; the mini models are built from "
                f"SIB-200, whose splits all have the same of these: {', '.join(LABELS)}."
            )


@contextmanager
def _timed(stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    logger.info("%s: %.0f s", stage, time.monotonic() - start)


def _prepare(train: ParallelCorpus, config: MiniModelsConfig, seed: int) -> _Material:
    with _timed("tokenizer"):
        tokenizer = train_tokenizer(train.texts_S, PHRASES, config.tokenizer)
        split = TokenisedSplit(train, encode_flat(tokenizer, train.texts_S))
    similarity_MM = None
    if config.with_teacher:
        english = [train.texts_S[row] for row in split.pool_rows()]
        similarity_MM = sentence_similarity(english, teacher_folder())
    with _timed("token vectors"):
        vectors = token_vectors(
            split.ids_S,
            train.meaning_S,
            tokenizer.get_vocab_size(),
            config.encoder.hidden - FILLERS,
            config.vectors,
            seed,
            similarity_MM,
        )
    return _Material(tokenizer, split, vectors)


def _train_encoder(material: _Material, config: MiniModelsConfig, seed: int) -> XLMRobertaModel:
    train = material.train
    encoder = build_encoder(material.vectors.full_VD, config.encoder, seed)
    pool_S = train.corpus.lang_S == train.corpus.langs.index(POOL_LANG)
    meaning_S = train.corpus.meaning_S
    refine_encoder(encoder, material.vectors, train.ids_S, meaning_S, pool_S, config.encoder, seed)
    return encoder


def _train_language_model(material: _Material, config: MiniModelsConfig, seed: int) -> LlamaForCausalLM:
    shape = config.language_model
    own = material.train.corpus.labels
    tokens = PromptTokens.of(material.tokenizer, (*own, *(label for label in LABELS if label not in own)))
    identity_ids = tokens.identity_ids

    def embeddings(vectors_VD: NDArray[np.float32]) -> NDArray[np.float32]:
        return word_embeddings(vectors_VD[:, : shape.vector], identity_ids, shape)

    full_VH = embeddings(material.vectors.full_VD)
    first_ids = [label[0] for label in tokens.labels]
    model = build_language_model(full_VH, identity_ids, first_ids, shape, seed)
    tables_FVH = [torch.from_numpy(embeddings(table_VD)) for table_VD in material.vectors.folds_FVD]
    train_on_prompts(model, tables_FVH, _prompt_source(material, tokens, config), config.prompts, seed)
    return model


def _prompt_source(material: _Material, tokens: PromptTokens, config: MiniModelsConfig) -> PromptSource:
    train, vectors = material.train, material.vectors
    _, longest = config.prompts.text_tokens
    counts_SV = count_tokens([ids[:longest] for ids in train.ids_S], len(vectors.full_VD))
    pool_rows = train.pool_rows()
    fold_S = vectors.fold_M[train.corpus.meaning_S]
    pool_FMD = [
        out_of_fold_sentences(counts_SV[pool_rows], table_VD[None], np.zeros(len(pool_rows), dtype=np.int64))
        for table_VD in vectors.folds_FVD
    ]
    return PromptSource(
        tokens=tokens,
        ids_S=train.ids_S,
        meaning_S=train.corpus.meaning_S,
        pool_row_M=pool_rows,
        label_M=train.corpus.label_M,
        fold_M=vectors.fold_M,
        sentences_SD=out_of_fold_sentences(counts_SV, vectors.folds_FVD, fold_S),
        pool_FMD=np.stack(pool_FMD),
    )


def _measure(
    encoder: XLMRobertaModel,
    language_model: LlamaForCausalLM,
    material: _Material,
    splits: dict[str, ParallelCorpus],
    config: MiniModelsConfig,
    seed: int,
) -> dict[str, SplitFigures]:
    train = material.train
    pool = [train.ids_S[row] for row in train.pool_rows()]
    tuned = fine_tune(encoder, pool, train.corpus.label_M, config.fine_tuning, seed)
    encoders = {"untrained": encoder, "fine-tuned": tuned}
    figures = {}
    for name in ("dev", "test"):
        split = TokenisedSplit(splits[name], encode_flat(material.tokenizer, splits[name].texts_S))
        figures[name] = _measure_split(encoders, language_model, material, split, config.measure, seed)
        logger.info("measured on %s: %s", name, _summary(figures[name]))
    return figures


def _measure_split(
    encoders: dict[str, XLMRobertaModel],
    language_model: LlamaForCausalLM,
    material: _Material,
    split: TokenisedSplit,
    config: MeasureConfig,
    seed: int,
) -> SplitFigures:
    train = material.train
    tokens = PromptTokens.of(material.tokenizer, train.corpus.labels)
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


def _write(
    output: Path,
    encoder: XLMRobertaModel,
    language_model: LlamaForCausalLM,
    material: _Material,
    figures: dict[str, SplitFigures],
    config: MiniModelsConfig,
    seed: int,
) -> None:
    facts = {
        "meanings": len(material.train.corpus.label_M),
        "languages": len(material.train.corpus.langs),
        "seed": seed,
        "layers": config.language_model.layers,
        "named": config.prompts.named_share,
        "labelled": config.prompts.labelled_share,
        "text_tokens": config.measure.text_tokens,
        "demonstrations": config.measure.demonstrations,
        "with_teacher": config.with_teacher,
    }

    def write_encoder(folder: Path) -> None:
        save_encoder(encoder, material.tokenizer, folder)
        write_card(folder, encoder_card({**facts, "parameters": _size(encoder)}, figures))

    def write_language_model(folder: Path) -> None:
        save_language_model(language_model, material.tokenizer, folder)
        write_card(folder, language_model_card({**facts, "parameters": _size(language_model)}, figures))

    write_folder(output / ENCODER, write_encoder)
    write_folder(output / LANGUAGE_MODEL, write_language_model)


def _size(model: PreTrainedModel) -> str:
    return f"{model.num_parameters() / 1e6:.1f}M"
