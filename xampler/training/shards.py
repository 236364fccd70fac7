"""Parquet shards of judged queries, read as a stream: memory does not grow with the table.

A shard row is (query_id, query_text, split, candidates), one row a query in the order in which an epoch
is read; ``candidates`` is a list of (rank, candidate_id, candidate_text, role, same_label,
gold_log_prob), nearest first.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from xampler.core.pairing import POSITIVE
from xampler.errors import TrainingError
from xampler.training.recipe import PositivesBy, RecipeConfig


@dataclass(frozen=True)
class Candidate:
    """A judged candidate."""

    candidate_id: str
    text: str
    role: str = POSITIVE  # by the language model's judgement
    same_label: bool = True
    gold_log_prob: float = 0.0  # nats, the query's gold label after this candidate


@dataclass
class JudgedQuery:
    """A query with its candidates, nearest first; one may be neither positive nor negative."""

    query_id: str
    text: str
    positives: list[Candidate] = field(default_factory=list)
    negatives: list[Candidate] = field(default_factory=list)
    others: list[Candidate] = field(default_factory=list)

    @property
    def candidates(self) -> list[Candidate]:
        """All of them."""
        return [*self.positives, *self.negatives, *self.others]


def stream_queries(shards: str, split: str, recipe: RecipeConfig) -> Iterator[JudgedQuery]:
    """Queries of one split in the order of the shards, candidates sorted into roles by the recipe.

    Raises:
        TrainingError: there are no shards.
    """
    for row in read_shards(shards):
        if row["split"] == split:
            yield _judged_query(row, recipe)


def read_shards(folder: str) -> "datasets.IterableDataset":
    """The rows of all Parquet files of a folder, in the order of the file names.

    Raises:
        TrainingError: there is no such file.
    """
    files = sorted(str(path) for path in Path(folder).glob("*.parquet"))
    if not files:
        raise TrainingError(f"{folder}: there is no Parquet file to train on; run `xampler train` again")
    return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)


def shuffled(
    queries: Iterator[JudgedQuery], buffer_size: int, generator: random.Random
) -> Iterator[JudgedQuery]:
    """The queries, each drawn from ``buffer_size`` of those to come: a full shuffle of a small set."""
    buffer: list[JudgedQuery] = []
    for query in queries:
        if len(buffer) < buffer_size:
            buffer.append(query)
            continue
        place = generator.randrange(buffer_size)
        yield buffer[place]
        buffer[place] = query
    generator.shuffle(buffer)
    yield from buffer


def _judged_query(row: dict[str, Any], recipe: RecipeConfig) -> JudgedQuery:
    query = JudgedQuery(row["query_id"], row["query_text"])
    for found in row["candidates"]:
        candidate = Candidate(
            found["candidate_id"],
            found["candidate_text"],
            found["role"],
            found["same_label"],
            found["gold_log_prob"],
        )
        _list_of(query, candidate, recipe.positives_by).append(candidate)
    return query


def _list_of(query: JudgedQuery, candidate: Candidate, by: PositivesBy) -> list[Candidate]:
    right = candidate.role == POSITIVE
    match by:
        case "judgement":
            return query.positives if right else query.negatives
        case "label":
            return query.positives if candidate.same_label else query.negatives
        case "both":
            if not candidate.same_label:
                return query.negatives
            return query.positives if right else query.others
