"""Refinement of the mini encoder: translations are told from other meanings, by InfoNCE.

Each sentence is shown through token vectors that have not seen its meaning (:mod:`xampler.mini.vectors`), so
that what the layer learns holds for new text. No labels take part.

Shape suffixes: S sentences, M meanings, B sentences of a batch, V vocabulary, H hidden.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import XLMRobertaModel

from xampler.mini.encoder import (
    FILLERS,
    EncoderConfig,
    clear_fillers,
    embed_batch,
    hidden_vectors,
    share_one_dimension,
)
from xampler.mini.vectors import TokenVectors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ContrastBatch:
    """Sentences of one fold: those of the first half, then translations of each in the same order."""

    fold: int
    texts_B: list[NDArray[np.int32]]


def refine_encoder(
    model: XLMRobertaModel,
    vectors: TokenVectors,
    ids_S: Sequence[NDArray[np.int32]],
    meaning_S: NDArray[np.int64],
    pool_S: NDArray[np.bool_],
    config: EncoderConfig,
    seed: int,
) -> None:
    """Train the layer, embeddings frozen, to find a sentence's translation among those of other meanings.

    Args:
        ids_S: token ids of the training sentences.
        meaning_S: their meanings.
        pool_S: which of them are in the pool's language.
    """
    tables = [torch.from_numpy(hidden_vectors(table_VD, config)) for table_VD in vectors.folds_FVD]
    trained = list(model.encoder.parameters())
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate)
    scheduler = linear_schedule(optimizer, config.warm_up, config.steps)
    batches = contrast_batches(ids_S, meaning_S, pool_S, vectors.fold_M, config, seed)
    model.train()
    for step, batch in enumerate(batches, start=1):
        loss = _contrast(model, tables[batch.fold], batch, config.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            clear_fillers(model)
            share_one_dimension(model, config)
        if step % 200 == 0 or step == config.steps:
            logger.info("encoder: step %d of %d, loss %.3f", step, config.steps, loss.item())
    model.eval()


def linear_schedule(
    optimizer: torch.optim.Optimizer, warm_up: int, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then linear decay to 0."""

    def share(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return max(0.0, (steps - step) / max(1, steps - warm_up))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def contrast_batches(
    ids_S: Sequence[NDArray[np.int32]],
    meaning_S: NDArray[np.int64],
    pool_S: NDArray[np.bool_],
    fold_M: NDArray[np.int64],
    config: EncoderConfig,
    seed: int,
) -> Iterator[ContrastBatch]:
    """``config.steps`` batches, each of one fold's meanings in two random languages."""
    rng = np.random.default_rng(seed)
    rows_M = rows_by_meaning(meaning_S)
    pool_row_M = np.full(len(fold_M), -1)
    pool_row_M[meaning_S[pool_S]] = np.flatnonzero(pool_S)
    folds = int(fold_M.max()) + 1
    for step in range(config.steps):
        members = np.flatnonzero(fold_M == step % folds)
        meanings = rng.permutation(members)[: config.meanings_per_step]
        halves = [_translations(meanings, rows_M, pool_row_M, config.pool_share, rng) for _ in range(2)]
        cut = [ids_S[row][: config.max_train_tokens] for row in np.concatenate(halves)]
        yield ContrastBatch(step % folds, [drop_tokens(ids, config.token_drop, rng) for ids in cut])


def rows_by_meaning(meaning_S: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each meaning's sentences."""
    order = np.argsort(meaning_S, kind="stable")
    return np.split(order, np.cumsum(np.bincount(meaning_S))[:-1])


def _translations(
    meanings: NDArray[np.int64],
    rows_M: Sequence[NDArray[np.int64]],
    pool_row_M: NDArray[np.int64],
    pool_share: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """A row of each meaning, in English or any language."""
    drawn = np.array([rng.choice(rows_M[meaning]) for meaning in meanings])
    english = (rng.random(len(meanings)) < pool_share) & (pool_row_M[meanings] >= 0)
    return np.where(english, pool_row_M[meanings], drawn)


def drop_tokens(ids: NDArray[np.int32], share: float, rng: np.random.Generator) -> NDArray[np.int32]:
    """The ids without a random share of them, but never none."""
    kept = ids[rng.random(len(ids)) >= share]
    return kept if len(kept) else ids


def _contrast(model: XLMRobertaModel, table_VH: Tensor, batch: ContrastBatch, temperature: float) -> Tensor:
    """Symmetric InfoNCE over the two halves of a batch, without the dimension that all texts share."""
    vectors_BH = embed_batch(model, batch.texts_B, table_VH, dimensions=-FILLERS)
    first_BH, second_BH = vectors_BH.chunk(2)
    similarity_BB = first_BH @ second_BH.T / temperature
    own_B = torch.arange(len(first_BH))
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(similarity_BB, own_B) + cross_entropy(similarity_BB.T, own_B)) / 2
