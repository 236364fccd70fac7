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
from xampler.mini.card import encoder_card, language_model_card, write_card
from xampler.mini.contrast import refine_encoder
from xampler.mini.data import POOL_LANG, ParallelCorpus, TokenisedSplit, read_corpus
from xampler.mini.encoder import FILLERS, EncoderConfig, build_encoder
from xampler.mini.figures import FiguresConfig, SplitFigures, measure_models
from xampler.mini.language_model import LanguageModelConfig, build_language_model, word_embeddings
from xampler.mini.prompt_data import PromptTrainingConfig, prompt_source
from xampler.mini.prompts import LABELS, PHRASES, PromptTokens
from xampler.mini.saving import ENCODER, LANGUAGE_MODEL, save_encoder, save_language_model, write_folder
from xampler.mini.teacher import sentence_similarity, teacher_folder
from xampler.mini.tokenizer import TokenizerConfig, encode_flat, train_tokenizer
from xampler.mini.training import train_on_prompts
from xampler.mini.vectors import TokenVectors, VectorsConfig, token_vectors

logger = logging.getLogger(__name__)

SEED = 20_240


class MiniModelsConfig(Config):
    """Everything that shapes the two models."""

    tokenizer: TokenizerConfig = TokenizerConfig()
    vectors: VectorsConfig = VectorsConfig()
    encoder: EncoderConfig = EncoderConfig()
    language_model: LanguageModelConfig = LanguageModelConfig()
    prompts: PromptTrainingConfig = PromptTrainingConfig()
    figures: FiguresConfig = FiguresConfig()
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
        held_out = {name: _tokenise(material.tokenizer, splits[name]) for name in ("dev", "test")}
        tokens = PromptTokens.of(material.tokenizer, splits["train"].labels)
        train = material.train
        figures = measure_models(encoder, language_model, train, held_out, tokens, config.figures, seed)
    _write(output, encoder, language_model, material, figures, config, seed)


def _check_labels(splits: dict[str, ParallelCorpus]) -> None:
    for split, corpus in splits.items():
        if corpus.labels != splits["train"].labels or not set(corpus.labels) <= set(LABELS):
            raise DataError(
                f"The {split} split has the labels {', '.join(corpus.labels)}; the mini models are built "
                f"from SIB-200, whose splits all have the same of these: {', '.join(LABELS)}."
            )


@contextmanager
def _timed(stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    logger.info("%s: %.0f s", stage, time.monotonic() - start)


def _prepare(train: ParallelCorpus, config: MiniModelsConfig, seed: int) -> _Material:
    with _timed("tokenizer"):
        tokenizer = train_tokenizer(train.texts_S, PHRASES, config.tokenizer)
        split = _tokenise(tokenizer, train)
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


def _tokenise(tokenizer: Tokenizer, corpus: ParallelCorpus) -> TokenisedSplit:
    return TokenisedSplit(corpus, encode_flat(tokenizer, corpus.texts_S))


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
    _, longest = config.prompts.text_tokens
    source = prompt_source(material.train, material.vectors, tokens, longest)
    train_on_prompts(model, tables_FVH, source, config.prompts, seed)
    return model


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
        "text_tokens": config.figures.measure.text_tokens,
        "demonstrations": config.figures.measure.demonstrations,
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
