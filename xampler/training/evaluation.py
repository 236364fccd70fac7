"""What is measured while a retriever is trained, on queries and languages that it is not trained on.

Shapes: Q held-out queries, C their candidates, N texts, D dimensions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.model import BaseModel
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from sklearn.metrics import average_precision_score, ndcg_score

from xampler.training.shards import JudgedQuery, read_shards

RECALL_AT = (1, 5, 10)
MAX_HELD_OUT = 2000  # queries; their mean is known well enough
MAX_PARALLEL = 200  # texts of a language

Parallels = dict[str, dict[str, str]]  # language to parallel_id to text


class HeldOutEvaluator(SentenceEvaluator):
    """How held-out queries and their candidates lie, and whether parallel texts find each other.

    ``held_out_map``: mean average precision of the positives in the query's own list.
    ``held_out_ndcg``: of the same list, the gain being the scorer's probability of the gold label.
    ``held_out_recall_at_k``: share of a query's positives among the k nearest of *all* held-out
    queries' candidates, of at most k.
    ``held_out_margin``: mean cosine of the positives less that of the negatives.
    ``parallel``: see :func:`parallel_share`.
    """

    def __init__(self, queries: Sequence[JudgedQuery], parallels: Parallels, pool_lang: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.queries = [query for query in queries if query.positives and query.negatives]
        self.parallels = parallels
        self.pool_lang = pool_lang

    def __bool__(self) -> bool:
        """Whether there is anything to measure."""
        return bool(self.queries) or has_parallels(self.parallels, self.pool_lang)

    def __call__(
        self, model: BaseModel, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """The figures, by name."""
        figures = self._held_out(model) if self.queries else {}
        if has_parallels(self.parallels, self.pool_lang):
            figures["parallel"] = parallel_share(model, self.parallels, self.pool_lang)
        return figures

    def _held_out(self, model: BaseModel) -> dict[str, float]:
        texts = {one.candidate_id: one.text for query in self.queries for one in query.candidates}
        column = {candidate_id: number for number, candidate_id in enumerate(texts)}
        query_emb_QD = _encode(model, [query.text for query in self.queries])
        cosine_QC = query_emb_QD @ _encode(model, list(texts.values())).T
        measured = [
            _measure(query, cosine_C, column) for query, cosine_C in zip(self.queries, cosine_QC, strict=True)
        ]
        return {
            f"held_out_{name}": float(np.mean([figures[name] for figures in measured]))
            for name in measured[0]
        }


def parallel_share(model: BaseModel, parallels: Parallels, pool_lang: str) -> float:
    """Share of texts whose parallel in the pool's language is the nearest there; mean over languages.

    It needs no label, and falls before accuracy does when training on one language pulls the others
    away from it.
    """
    pool = parallels[pool_lang]
    places = {parallel_id: number for number, parallel_id in enumerate(pool)}
    pool_emb_ND = _encode(model, list(pool.values()))
    shares = []
    for lang, texts in parallels.items():
        found = [parallel_id for parallel_id in texts if parallel_id in places]
        if lang == pool_lang or not found:
            continue
        emb_ND = _encode(model, [texts[parallel_id] for parallel_id in found])
        nearest_N = (emb_ND @ pool_emb_ND.T).argmax(axis=1)
        shares.append(float(np.mean(nearest_N == [places[parallel_id] for parallel_id in found])))
    return float(np.mean(shares))


def has_parallels(parallels: Parallels, pool_lang: str) -> bool:
    """Whether a language beside the pool's has a parallel of one of its texts."""
    pool = parallels.get(pool_lang, {})
    return any(lang != pool_lang and not pool.keys().isdisjoint(texts) for lang, texts in parallels.items())


def read_parallels(folder: str | None) -> Parallels:
    """The parallel texts of a folder of Parquet files (lang, parallel_id, text), some of each language."""
    parallels: Parallels = {}
    for row in read_shards(folder) if folder else ():
        texts = parallels.setdefault(row["lang"], {})
        if len(texts) < MAX_PARALLEL:
            texts[row["parallel_id"]] = row["text"]
    return parallels


def _measure(query: JudgedQuery, cosine_C: NDArray[np.float32], column: dict[str, int]) -> dict[str, float]:
    positive = [column[one.candidate_id] for one in query.positives]
    negative = [column[one.candidate_id] for one in query.negatives]
    own = [column[one.candidate_id] for one in query.candidates]
    gains = [np.exp(one.gold_log_prob) for one in query.candidates]
    order_C = np.argsort(-cosine_C, kind="stable")
    judged = cosine_C[[*positive, *negative]]
    recalls = {
        f"recall_at_{k}": len(set(positive) & set(order_C[:k].tolist())) / min(k, len(positive))
        for k in RECALL_AT
    }
    return {
        "map": float(average_precision_score([1] * len(positive) + [0] * len(negative), judged)),
        "ndcg": float(ndcg_score([gains], [cosine_C[own]])),
        "margin": float(cosine_C[positive].mean() - cosine_C[negative].mean()),
        **recalls,
    }


def _encode(model: BaseModel, texts: list[str]) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = model.encode(  # type: ignore[operator]
        texts, normalize_embeddings=True, show_progress_bar=False
    )
    return vectors
