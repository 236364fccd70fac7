"""Parquet shards of judged pairs to the rows that a loss reads, in a fixed order.

A shard row is (query_id, query_text, candidate_id, candidate_text, role, split).
"""

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import datasets

from xampler.core.pairing import POSITIVE, TRAIN
from xampler.errors import TrainingError
from xampler.training.recipe import ContrastiveRecipe, InfoNceRecipe, Recipe

logger = logging.getLogger(__name__)

SIZE_TRIALS = 20
MAX_FAILURES = 100


@dataclass
class JudgedQuery:
    """A query with its positive and negative candidates, as (id, text)."""

    query_id: str
    text: str
    positives: list[tuple[str, str]] = field(default_factory=list)
    negatives: list[tuple[str, str]] = field(default_factory=list)


def read_queries(shards: str, split: str) -> list[JudgedQuery]:
    """Queries of one split with their judged candidates, ordered by id.

    Raises:
        TrainingError: the shards hold no pair to train on.
    """
    rows = datasets.load_dataset("parquet", data_files=f"{shards}/*.parquet", split="train")
    queries: dict[str, JudgedQuery] = {}
    for row in rows:
        if row["split"] == split:
            query = queries.setdefault(row["query_id"], JudgedQuery(row["query_id"], row["query_text"]))
            candidates = query.positives if row["role"] == POSITIVE else query.negatives
            candidates.append((row["candidate_id"], row["candidate_text"]))
    if not queries and split == TRAIN:
        raise TrainingError(f"there is no {split} pair to learn from; run `mine` with more queries")
    for query in queries.values():
        query.positives.sort()
        query.negatives.sort()
    return [queries[query_id] for query_id in sorted(queries)]


def training_rows(queries: Sequence[JudgedQuery], recipe: Recipe, ranks: int) -> tuple[datasets.Dataset, int]:
    """All rows of the run in the order of its steps, and the rows a step.

    Any number of ranks sees the same batches. A step has fewer rows than the recipe asks for where the
    queries do not allow that many without conflict, or the ranks cannot share them equally.

    Raises:
        TrainingError: no query has what the loss needs, or a rank would have no row.
    """
    generator = random.Random(recipe.seed)
    match recipe:
        case ContrastiveRecipe():
            batch_size = _shared_equally(recipe.batch_size, ranks)
            rows = _pairs(queries, generator)
        case InfoNceRecipe():
            usable = [query for query in queries if query.positives and query.negatives]
            batch_size = _shared_equally(_conflict_free_size(usable, recipe.batch_size, generator), ranks)
            rows = chain.from_iterable(_triplet_batches(usable, batch_size, generator))
    drawn = [
        _drop_words(row, recipe.word_dropout, generator) for row in islice(rows, recipe.steps * batch_size)
    ]
    return datasets.Dataset.from_list(drawn), batch_size


def held_out_samples(queries: Sequence[JudgedQuery]) -> list[dict[str, str | list[str]]]:
    """Samples of sentence-transformers' RerankingEvaluator: queries that have both roles."""
    return [
        {
            "query": query.text,
            "positive": [text for _, text in query.positives],
            "negative": [text for _, text in query.negatives],
        }
        for query in queries
        if query.positives and query.negatives
    ]


def _pairs(queries: Sequence[JudgedQuery], generator: random.Random) -> Iterator[dict[str, object]]:
    pairs: list[dict[str, object]] = [
        {"sentence1": query.text, "sentence2": text, "label": label}
        for query in queries
        for label, candidates in ((1, query.positives), (0, query.negatives))
        for _, text in candidates
    ]
    while True:
        generator.shuffle(pairs)
        yield from pairs


def _shared_equally(batch_size: int, ranks: int) -> int:
    if batch_size < ranks:
        raise TrainingError(f"{ranks} ranks cannot share a step of {batch_size} rows; give fewer ranks")
    return batch_size - batch_size % ranks


def _conflict_free_size(usable: Sequence[JudgedQuery], wanted: int, generator: random.Random) -> int:
    """The most rows, up to ``wanted``, that conflict-free batches of these queries reach reliably."""
    if not usable:
        raise TrainingError("no query has both a positive and a negative candidate: nothing to contrast")
    trials = []
    for _ in range(SIZE_TRIALS):
        shuffled = generator.sample(usable, len(usable))
        trials.append(len(_fill_batch(shuffled, wanted, generator)[0]))
    if min(trials) < wanted:
        logger.warning("batches of %d rows: more would hold each other's positives", min(trials))
    return min(trials)


def _triplet_batches(
    usable: Sequence[JudgedQuery], batch_size: int, generator: random.Random
) -> Iterator[list[dict[str, object]]]:
    """Batches of (anchor, positive, negative) in which no row holds another row's query or positive.

    Without this, in-batch negatives push a query away from itself or from its own positives, and the
    encoder collapses. Queries passed over in one batch come first in the next.
    """
    waiting: list[JudgedQuery] = []
    failures = 0
    while failures < MAX_FAILURES:
        batch, passed = _fill_batch(waiting + generator.sample(usable, len(usable)), batch_size, generator)
        waiting = passed[: len(usable)]
        if len(batch) == batch_size:
            failures = 0
            yield batch
        else:
            failures += 1
            waiting = []
    raise TrainingError(f"no batch of {batch_size} queries without conflict; give a smaller batch_size")


def _fill_batch(
    waiting: list[JudgedQuery], batch_size: int, generator: random.Random
) -> tuple[list[dict[str, object]], list[JudgedQuery]]:
    """A batch from the first queries that fit together, and those not taken, in order."""
    batch: list[dict[str, object]] = []
    shown: set[str] = set()  # ids in the batch: queries, positives, negatives
    forbidden: set[str] = set()  # ids that are a query of the batch, or positive for one
    passed: list[JudgedQuery] = []
    for position, query in enumerate(waiting):
        if len(batch) == batch_size:
            return batch, passed + waiting[position:]
        positive, negative = generator.choice(query.positives), generator.choice(query.negatives)
        own = {query.query_id, *(candidate_id for candidate_id, _ in query.positives)}
        held = {query.query_id, positive[0], negative[0]}
        if own & shown or held & forbidden:
            passed.append(query)
            continue
        batch.append({"anchor": query.text, "positive": positive[1], "negative": negative[1]})
        shown |= held
        forbidden |= own
    return batch, passed


def _drop_words(row: dict[str, object], share: float, generator: random.Random) -> dict[str, object]:
    if share == 0:
        return row
    return {
        key: _thin(value, share, generator) if isinstance(value, str) else value for key, value in row.items()
    }


def _thin(text: str, share: float, generator: random.Random) -> str:
    kept = [word for word in text.split() if generator.random() >= share]
    return " ".join(kept) or text
