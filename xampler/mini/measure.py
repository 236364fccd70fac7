"""What the mini models are worth on text that they have not seen.

Shape suffixes: C pool sentences, S sentences of a split, K retrieved, L labels, P prompts, T tokens,
H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaForCausalLM, XLMRobertaModel

from xampler.config import Config
from xampler.mini.data import POOL_LANG, ParallelCorpus, TokenisedSplit
from xampler.mini.encoder import embed
from xampler.mini.prompts import PromptTokens
from xampler.mini.tokenizer import PAD_ID


class MeasureConfig(Config):
    """How much is measured."""

    demonstrations: int = 10
    text_tokens: int = 32  # cut of each text in a prompt
    languages: int = 20  # beside English, for prompts; retrieval is measured in all
    queries: int = 60  # of each language, for prompts
    judgements: int = 2_000  # one-shot prompts
    candidates: int = 20  # of the untrained encoder, from which one-shot demonstrations are drawn
    prompts_per_batch: int = 32


@dataclass(frozen=True)
class Share:
    """A share of 1 in English, and its mean over the other languages (NaN without any)."""

    english: float
    others: float


@dataclass(frozen=True)
class Retrieval:
    """How well an encoder finds English training sentences for a split's sentences.

    Attributes:
        vote: the commonest label among those retrieved is the query's.
        same_label: share of those retrieved with the query's label.
        parallel: the nearest English sentence of the split is the query's translation.
        top_SK: pool rows retrieved, the most similar first.
    """

    vote: Share
    same_label: Share
    parallel: Share
    top_SK: NDArray[np.int64]


@dataclass(frozen=True)
class Judgements:
    """One-shot prompts: share answered rightly when the demonstration has the query's label, and when not."""

    right_label: float
    wrong_label: float


def measure_retrieval(
    encoder: XLMRobertaModel, pool: TokenisedSplit, split: TokenisedSplit, config: MeasureConfig
) -> Retrieval:
    """Retrieve for every sentence of the split."""
    pool_CH = embed(encoder, [pool.ids_S[row] for row in pool.pool_rows()])
    split_SH = embed(encoder, split.ids_S)
    wanted = max(config.demonstrations, config.candidates)
    top_SK = np.argsort(-(split_SH @ pool_CH.T), axis=1, kind="stable")[:, :wanted]
    shown_SK = top_SK[:, : config.demonstrations]
    same_SK = pool.corpus.label_M[shown_SK] == split.labels[:, None]
    votes_S = _commonest(pool.corpus.label_M[shown_SK], len(pool.corpus.labels))
    english_rows = split.pool_rows()
    nearest_S = english_rows[np.argmax(split_SH @ split_SH[english_rows].T, axis=1)]
    parallel_S = split.corpus.meaning_S[nearest_S] == split.corpus.meaning_S
    return Retrieval(
        vote=_share(votes_S == split.labels, split.corpus.lang_S, split.corpus),
        same_label=_share(same_SK.mean(axis=1), split.corpus.lang_S, split.corpus),
        parallel=_share(parallel_S, split.corpus.lang_S, split.corpus),
        top_SK=top_SK,
    )


def _commonest(label_SK: NDArray[np.int64], labels: int) -> NDArray[np.int64]:
    """The commonest label of each row; the first of those tied."""
    counts_SL = (label_SK[:, :, None] == np.arange(labels)).sum(axis=1)
    commonest_S: NDArray[np.int64] = np.argmax(counts_SL, axis=1)
    return commonest_S


def _share(
    value_S: NDArray[np.bool_] | NDArray[np.float64], lang_S: NDArray[np.int64], corpus: ParallelCorpus
) -> Share:
    by_lang = {corpus.langs[lang]: float(value_S[lang_S == lang].mean()) for lang in np.unique(lang_S)}
    english = by_lang.pop(POOL_LANG, float("nan"))
    return Share(english, float(np.mean(list(by_lang.values()))) if by_lang else float("nan"))


def prompt_sample(corpus: ParallelCorpus, config: MeasureConfig) -> NDArray[np.int64]:
    """Rows of the first queries of English and of languages spread over the alphabet of codes."""
    others = [lang for lang in corpus.langs if lang != POOL_LANG]
    spread = np.linspace(0, len(others) - 1, min(config.languages, len(others))).round().astype(int)
    chosen = [POOL_LANG, *(others[place] for place in spread)]
    return np.concatenate([corpus.rows_of(lang)[: config.queries] for lang in chosen])


def random_demonstrations(rows: int, pool_size: int, count: int, seed: int) -> NDArray[np.int64]:
    """Pool rows ``[rows, count]``, without repetition in a row."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(pool_size, min(count, pool_size), replace=False) for _ in range(rows)])


def measure_prompts(
    model: LlamaForCausalLM,
    tokens: PromptTokens,
    pool: TokenisedSplit,
    split: TokenisedSplit,
    rows: NDArray[np.int64],
    top: NDArray[np.int64],
    config: MeasureConfig,
) -> Share:
    """Accuracy with the demonstrations ``top[i]``, most similar first, for the sentence ``rows[i]``."""
    prompts = [
        _prompt(tokens, pool, split.ids_S[row], found, config) for row, found in zip(rows, top, strict=True)
    ]
    predicted = score_labels(model, tokens, prompts, config.prompts_per_batch).argmax(axis=1)
    return _share(predicted == split.labels[rows], split.corpus.lang_S[rows], split.corpus)


def measure_judgements(
    model: LlamaForCausalLM,
    tokens: PromptTokens,
    pool: TokenisedSplit,
    split: TokenisedSplit,
    top_SK: NDArray[np.int64],
    config: MeasureConfig,
    seed: int,
) -> Judgements:
    """One-shot prompts of random sentences, each with one of its ``config.candidates`` nearest."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(top_SK), min(config.judgements, len(top_SK)), replace=False)
    found = top_SK[rows, rng.integers(0, min(config.candidates, top_SK.shape[1]), len(rows))]
    prompts = [
        _prompt(tokens, pool, split.ids_S[row], [one], config) for row, one in zip(rows, found, strict=True)
    ]
    predicted = score_labels(model, tokens, prompts, config.prompts_per_batch).argmax(axis=1)
    right = predicted == split.labels[rows]
    same = pool.corpus.label_M[found] == split.labels[rows]
    return Judgements(_mean(right[same]), _mean(right[~same]))


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _prompt(
    tokens: PromptTokens,
    pool: TokenisedSplit,
    query: NDArray[np.int32],
    found: Sequence[int] | NDArray[np.int64],
    config: MeasureConfig,
) -> list[int]:
    pool_rows = pool.pool_rows()
    shown = [
        (pool.ids_S[pool_rows[candidate]][: config.text_tokens], int(pool.corpus.label_M[candidate]))
        for candidate in reversed(found)
    ]
    return tokens.prompt(query[: config.text_tokens], shown)


def score_labels(
    model: LlamaForCausalLM, tokens: PromptTokens, prompts: Sequence[Sequence[int]], batch_size: int
) -> NDArray[np.float64]:
    """Log-likelihood ``[P, L]`` of the first token of each label, in nats.

    The labels of this task begin with different tokens, and the later tokens of a label are certain.
    """
    first_L = torch.tensor([label[0] for label in tokens.labels])
    scores_PL = np.zeros((len(prompts), len(first_L)))
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        scores_PL[batch] = _score_batch(model, first_L, [prompts[number] for number in batch])
    return scores_PL


def _score_batch(
    model: LlamaForCausalLM, first_L: torch.Tensor, prompts: Sequence[Sequence[int]]
) -> NDArray[np.float32]:
    ids_PT = torch.full((len(prompts), max(map(len, prompts))), PAD_ID)
    for number, prompt in enumerate(prompts):
        ids_PT[number, : len(prompt)] = torch.tensor(prompt)
    last_P = torch.tensor([len(prompt) - 1 for prompt in prompts])
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        # padding stands behind all that is read, so a causal model needs no mask
        hidden_PTH = model.model(input_ids=ids_PT).last_hidden_state
    with torch.inference_mode():
        logits_PV = model.lm_head(hidden_PTH[torch.arange(len(prompts)), last_P].float())
        scores: NDArray[np.float32] = torch.log_softmax(logits_PV, dim=1)[:, first_L].numpy()
    return scores
