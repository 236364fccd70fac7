"""English-only fine-tuning of the mini encoder in its shortest form, to measure what the method gains.

The project trains retrievers elsewhere, from the language model's judgements. Here two English sentences
with the same label are a positive pair: close to what the mini language model says of one-shot prompts.

Shape suffixes: C pool sentences, K candidates, B queries of a batch, H hidden.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import XLMRobertaModel

from xampler.config import Config
from xampler.mini.contrast import drop_tokens, linear_schedule
from xampler.mini.encoder import embed, embed_batch


class FineTuningConfig(Config):
    """InfoNCE with one positive, one hard negative and the other queries' ones."""

    steps: int = 200
    queries_per_step: int = 64
    candidates: int = 20
    learning_rate: float = 3e-4
    warm_up: int = 20  # steps
    temperature: float = 0.025
    token_drop: float = 0.3
    max_tokens: int = 62


@dataclass(frozen=True)
class _Candidates:
    """Of each query that has both: its candidates with its label, and those with another."""

    queries: NDArray[np.int64]
    positives: dict[int, NDArray[np.int64]]
    negatives: dict[int, NDArray[np.int64]]


def fine_tune(
    model: XLMRobertaModel,
    ids_C: Sequence[NDArray[np.int32]],
    label_C: NDArray[np.int64],
    config: FineTuningConfig,
    seed: int,
) -> XLMRobertaModel:
    """A fine-tuned copy of ``model``.

    Args:
        ids_C: token ids of the English pool, without special tokens.
        label_C: labels of the pool.
    """
    tuned: XLMRobertaModel = copy.deepcopy(model)
    rng = np.random.default_rng(seed)
    texts_C = [ids[: config.max_tokens] for ids in ids_C]
    candidates = _propose(embed(model, texts_C), label_C, config.candidates)
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=config.learning_rate)
    scheduler = linear_schedule(optimizer, config.warm_up, config.steps)
    tuned.train()
    for _ in range(config.steps):
        loss = _batch_loss(tuned, texts_C, candidates, config, rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    tuned.eval()
    return tuned


def _propose(vectors_CH: NDArray[np.float32], label_C: NDArray[np.int64], count: int) -> _Candidates:
    similarity_CC = vectors_CH @ vectors_CH.T
    np.fill_diagonal(similarity_CC, -np.inf)
    top_CK = np.argsort(-similarity_CC, axis=1, kind="stable")[:, :count]
    same_CK = label_C[top_CK] == label_C[:, None]
    queries = np.flatnonzero(same_CK.any(axis=1) & ~same_CK.all(axis=1))
    return _Candidates(
        queries=queries,
        positives={int(query): top_CK[query][same_CK[query]] for query in queries},
        negatives={int(query): top_CK[query][~same_CK[query]] for query in queries},
    )


def _batch_loss(
    model: XLMRobertaModel,
    texts_C: Sequence[NDArray[np.int32]],
    candidates: _Candidates,
    config: FineTuningConfig,
    rng: np.random.Generator,
) -> Tensor:
    size = min(config.queries_per_step, len(candidates.queries))
    queries = rng.choice(candidates.queries, size, replace=False)
    positives = np.array([rng.choice(candidates.positives[int(query)]) for query in queries])
    negatives = np.array([rng.choice(candidates.negatives[int(query)]) for query in queries])
    rows = np.concatenate([queries, positives, negatives])
    vectors_BH = embed_batch(model, [drop_tokens(texts_C[row], config.token_drop, rng) for row in rows])
    similarity = vectors_BH[:size] @ vectors_BH[size:].T / config.temperature
    hidden = torch.from_numpy(_not_negative(queries, np.concatenate([positives, negatives]), candidates))
    return torch.nn.functional.cross_entropy(similarity.masked_fill(hidden, -torch.inf), torch.arange(size))


def _not_negative(
    queries: NDArray[np.int64], others: NDArray[np.int64], candidates: _Candidates
) -> NDArray[np.bool_]:
    """Where another row's candidate is the query itself or one of its positives: no negative to it."""
    hidden = np.stack(
        [(others == query) | np.isin(others, candidates.positives[int(query)]) for query in queries]
    )
    np.fill_diagonal(hidden, val=False)
    return hidden
