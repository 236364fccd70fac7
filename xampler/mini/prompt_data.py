"""Prompts for training the mini language model, made from the parallel text.

A query is always shown through token vectors that have not seen its meaning, as a new text will be; its
demonstrations are English sentences whose meanings these vectors have seen, as those of a pool are.

Three kinds of prompt: labels by their true names; true labels under names drawn at random; clusters of
sentences under names drawn at random. In the last two the answer stands in the demonstrations only.

Shape suffixes: S sentences, M meanings, F folds, D vector dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from xampler.config import Config
from xampler.mini.contrast import rows_by_meaning
from xampler.mini.data import TokenisedSplit
from xampler.mini.prompts import PromptTokens
from xampler.mini.vectors import TokenVectors, count_tokens, out_of_fold_sentences


class PromptTrainingConfig(Config):
    """What the prompts look like and how long is trained on them."""

    steps: int = 400
    prompts_per_step: int = 32
    learning_rate: float = 1e-3
    warm_up: int = 40  # steps
    most_demonstrations: int = 10
    text_tokens: tuple[int, int] = (24, 40)  # shortest and longest cut
    usual_text_tokens: int = 32  # cut of half of the prompts
    pool_share: float = 0.25  # of the queries that are English
    labelled_share: float = 0.5  # of the meanings whose labels are used
    named_share: float = 0.3  # prompts with labels by their true names
    renamed_share: float = 0.5  # prompts with true labels under other names; the rest has clusters
    clusters: tuple[int, ...] = (5, 8, 12)
    random_share: float = 0.2  # prompts with random demonstrations
    help_of_label: float = 0.15  # cosines by which demonstrations with the query's label are raised, at most
    clip: float = 1.0  # gradient norm


@dataclass(frozen=True)
class PromptSource:
    """What prompts are made from.

    Attributes:
        ids_S: token ids of the sentences.
        meaning_S: their meanings.
        pool_row_M: row of each meaning's English sentence.
        label_M: true label of each meaning, the first of ``tokens.labels``.
        fold_M: fold of each meaning.
        sentences_SD: out-of-fold vectors of length 1.
        pool_FMD: vectors of the English sentences by each fold's table, of length 1.
    """

    tokens: PromptTokens
    ids_S: Sequence[NDArray[np.int32]]
    meaning_S: NDArray[np.int64]
    pool_row_M: NDArray[np.int64]
    label_M: NDArray[np.int64]
    fold_M: NDArray[np.int64]
    sentences_SD: NDArray[np.float32]
    pool_FMD: NDArray[np.float32]


def prompt_source(
    train: TokenisedSplit, vectors: TokenVectors, tokens: PromptTokens, longest: int
) -> PromptSource:
    """Gather what prompts are made from; similarity is that of the first ``longest`` tokens."""
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


@dataclass(frozen=True)
class Prompt:
    """Token ids with the answer's at the end."""

    ids: list[int]
    answer: int  # number of answer tokens


def prompt_batches(
    source: PromptSource, config: PromptTrainingConfig, seed: int
) -> Iterator[tuple[int, list[Prompt]]]:
    """``config.steps`` times a fold and prompts whose queries belong to it."""
    rng = np.random.default_rng(seed)
    maker = _PromptMaker(source, config, rng)
    folds = int(source.fold_M.max()) + 1
    for step in range(config.steps):
        fold = step % folds
        shots = _number_of_demonstrations(config, rng)
        cut = _cut(config, rng)
        yield fold, [maker.make(fold, shots, cut) for _ in range(config.prompts_per_step)]


def _number_of_demonstrations(config: PromptTrainingConfig, rng: np.random.Generator) -> int:
    """The whole range, with one and the most as the usual cases; one number per batch saves padding."""
    kind = rng.random()
    if kind < 0.2:
        return 1
    return config.most_demonstrations if kind < 0.7 else int(rng.integers(1, config.most_demonstrations + 1))


def _cut(config: PromptTrainingConfig, rng: np.random.Generator) -> int:
    shortest, longest = config.text_tokens
    return config.usual_text_tokens if rng.random() < 0.5 else int(rng.integers(shortest, longest + 1))


class _PromptMaker:
    """Draws prompts; keeps the clusterings and the labelled half."""

    def __init__(self, source: PromptSource, config: PromptTrainingConfig, rng: np.random.Generator) -> None:
        self.source, self.config, self.rng = source, config, rng
        meanings = len(source.fold_M)
        self.labelled_M = rng.permutation(meanings) < config.labelled_share * meanings
        self.rows_M = rows_by_meaning(source.meaning_S)
        pool_MD = source.sentences_SD[source.pool_row_M]
        self.clusterings = [
            KMeans(count, n_init=3, random_state=number).fit_predict(pool_MD)
            for number, count in enumerate(config.clusters)
        ]

    def make(self, fold: int, shots: int, cut: int) -> Prompt:
        class_M, allowed_M, name_of = self._classes()
        meaning = int(self.rng.choice(np.flatnonzero((self.source.fold_M == fold) & allowed_M)))
        row = self._query_row(meaning)
        candidates = np.flatnonzero((self.source.fold_M != fold) & allowed_M)
        chosen = self._demonstrations(fold, row, candidates, class_M[candidates] == class_M[meaning], shots)
        if name_of is not None and not (class_M[chosen] == class_M[meaning]).any():
            chosen[-1] = self._nearest(fold, row, candidates[class_M[candidates] == class_M[meaning]])
        names = np.arange(len(self.source.tokens.labels)) if name_of is None else name_of
        texts = [self.source.ids_S[self.source.pool_row_M[other]][:cut] for other in chosen]
        shown = list(zip(texts, names[class_M[chosen]].tolist(), strict=True))
        answer = self.source.tokens.labels[int(names[class_M[meaning]])]
        return Prompt([*self.source.tokens.prompt(self.source.ids_S[row][:cut], shown), *answer], len(answer))

    def _classes(self) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64] | None]:
        """Class of each meaning, which meanings may be used, and the classes' names if not their own."""
        kind = self.rng.random()
        names = self.rng.permutation(len(self.source.tokens.labels))
        if kind < self.config.named_share:
            return self.source.label_M, self.labelled_M, None
        if kind < self.config.named_share + self.config.renamed_share:
            return self.source.label_M, self.labelled_M, names
        clusters_M = self.clusterings[self.rng.integers(len(self.clusterings))]
        return clusters_M, np.ones(len(clusters_M), dtype=bool), names

    def _query_row(self, meaning: int) -> int:
        if self.rng.random() < self.config.pool_share:
            return int(self.source.pool_row_M[meaning])
        return int(self.rng.choice(self.rows_M[meaning]))

    def _demonstrations(
        self, fold: int, row: int, candidates: NDArray[np.int64], same: NDArray[np.bool_], shots: int
    ) -> NDArray[np.int64]:
        """Meanings of the demonstrations, the most similar last."""
        if self.rng.random() < self.config.random_share:
            return self.rng.choice(candidates, shots, replace=False)
        cosine = self.source.pool_FMD[fold, candidates] @ self.source.sentences_SD[row]
        helped = cosine + self.rng.random() * self.config.help_of_label * same
        return candidates[np.argsort(helped)[-shots:]]

    def _nearest(self, fold: int, row: int, candidates: NDArray[np.int64]) -> int:
        cosine = self.source.pool_FMD[fold, candidates] @ self.source.sentences_SD[row]
        return int(candidates[np.argmax(cosine)])
