"""Search for demonstrations in a pool of labelled candidates.

Shapes: Q queries, C candidates, D dimensions.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import bm25s
import numpy as np
from numpy.typing import NDArray

from xampler.core.pairing import exclude_same_text, random_demonstrations
from xampler.core.ports import Encoder
from xampler.core.ranking import cosine_similarity, top_k
from xampler.core.text import normalise_text


@dataclass(frozen=True)
class CandidatePool:
    """Labelled candidates, ordered by id."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """One candidate that a search chose."""

    position: int  # in the pool
    similarity: float


class CandidateIndex(Protocol):
    """A pool that can be searched."""

    def search(self, query_ids: Sequence[str], query_texts: Sequence[str], k: int) -> list[list[Found]]:
        """For each query at most ``k`` candidates, best first, without the query's own text."""


class EmptyIndex:
    """Finds nothing: the method without demonstrations."""

    def search(self, query_ids: Sequence[str], query_texts: Sequence[str], k: int) -> list[list[Found]]:
        """An empty list for each query."""
        return [[] for _ in query_ids]


@dataclass(frozen=True)
class RandomIndex:
    """Draws candidates by seed and draw key alone."""

    pool: CandidatePool
    seed: int

    def search(
        self,
        query_ids: Sequence[str],
        query_texts: Sequence[str],
        k: int,
        draw_keys: Sequence[str] | None = None,
    ) -> list[list[Found]]:
        """``k`` random candidates for each query, similarity 0; equal draw keys draw the same."""
        keyed = zip(query_ids, draw_keys or query_ids, strict=True)
        drawn = [random_demonstrations(i, self.pool.ids, k, self.seed, key) for i, key in keyed]
        return [[Found(position, 0.0) for position in positions] for positions in drawn]


class Bm25Index:
    """BM25 (bm25s, Lucene's variant) over lower-cased words."""

    def __init__(self, pool: CandidatePool) -> None:
        self.pool = pool
        self._bm25 = bm25s.BM25()
        words = [_words(text) for text in pool.texts]
        if any(words):  # bm25s cannot index texts without a single word
            self._bm25.index(words, show_progress=False)
        self._known = self._bm25.vocab_dict if any(words) else {}

    def search(self, query_ids: Sequence[str], query_texts: Sequence[str], k: int) -> list[list[Found]]:
        """The ``k`` highest BM25 scores; a query that shares no word gets the first ids, score 0."""
        scores = [self._scores(text) for text in query_texts]
        score_QC = np.array(scores, dtype=np.float32).reshape(len(scores), len(self.pool.ids))
        return _found(score_QC, query_ids, self.pool, k)

    def _scores(self, text: str) -> NDArray[np.float32]:
        known = [word for word in _words(text) if word in self._known]
        if not known:
            return np.zeros(len(self.pool.ids), dtype=np.float32)
        return np.asarray(self._bm25.get_scores(known), dtype=np.float32)


@dataclass(frozen=True)
class EncoderIndex:
    """Exact search by cosine."""

    pool: CandidatePool
    candidate_emb_CD: NDArray[np.float32]
    encoder: Encoder

    def search(self, query_ids: Sequence[str], query_texts: Sequence[str], k: int) -> list[list[Found]]:
        """The ``k`` highest cosines."""
        similarity_QC = cosine_similarity(self.encoder.encode(list(query_texts)), self.candidate_emb_CD)
        return _found(similarity_QC, query_ids, self.pool, k)


def _found(
    similarity_QC: NDArray[np.float32], query_ids: Sequence[str], pool: CandidatePool, k: int
) -> list[list[Found]]:
    chosen = top_k(similarity_QC, pool.ids, k, exclude_same_text(query_ids, pool.ids))
    return [
        [Found(position, float(similarity_C[position])) for position in positions]
        for similarity_C, positions in zip(similarity_QC, chosen, strict=True)
    ]


def _words(text: str) -> list[str]:
    # Combining marks belong to their word; \w leaves them out and would cut words of many scripts to pieces.
    letters = (
        letter if letter.isalnum() or unicodedata.category(letter).startswith("M") else " "
        for letter in normalise_text(text).lower()
    )
    return "".join(letters).split()
