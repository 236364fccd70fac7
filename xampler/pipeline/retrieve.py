"""Retrieve: each method's demonstrations for every query in any language, into ``demonstrations``."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame

from xampler.errors import DataError
from xampler.models.build import EncoderConfig, encoder_id
from xampler.models.index import Bm25Index, CandidatePool, EmptyIndex, Found, RandomIndex
from xampler.pipeline.context import Context
from xampler.pipeline.experiment import (
    Bm25Method,
    EncoderMethod,
    MajorityMethod,
    Method,
    RandomMethod,
    TrainedMethod,
    ZeroShotMethod,
)
from xampler.pipeline.ingest import ingest_part
from xampler.pipeline.pool import OpenIndex, demonstrations_id, encoder_index_opener, read_pool
from xampler.pipeline.stage import Outcome, Part, find_done
from xampler.pipeline.train import as_trained, train_part
from xampler.tables.schema import CANDIDATES, DEMONSTRATIONS, QUERIES
from xampler.tracking.run import Run

SEARCHED_SPLITS = ("dev", "test")


def retrieve_part(context: Context, name: str) -> Part:
    """The stage for one method."""
    method = context.experiment.methods[name]
    trained = (train_part(context, method.recipe),) if isinstance(method, TrainedMethod) else ()
    return Part(
        stage="retrieve",
        name=name,
        depends=lambda: _depends(context, method),
        run=lambda run: retrieve_demonstrations(context, name, run),
        before=(ingest_part(context), *trained),
        reads=(QUERIES, CANDIDATES),
        writes=(DEMONSTRATIONS,),
    )


def retrieve_parts(context: Context) -> list[Part]:
    """All methods that show demonstrations, or none of them."""
    return [retrieve_part(context, name) for name in context.experiment.prompting_methods]


def retrieve_demonstrations(context: Context, name: str, run: Run) -> Outcome:
    """Replace the method's demonstrations."""
    method = context.experiment.methods[name]
    pool = read_pool(context)
    queries = context.store.read(QUERIES, experiment=context.name).where(f"split IN {SEARCHED_SPLITS}")
    rows = [
        search_queries(context, queries, name, pool, *opener) for opener in _openers(context, method, pool)
    ]
    united = rows[0]
    for more in rows[1:]:
        united = united.unionByName(more)
    return Outcome(context.store.replace(DEMONSTRATIONS, united, experiment=context.name, method=name))


def search_queries(
    context: Context, queries: DataFrame, method: str, pool: CandidatePool, seed: int, open_index: OpenIndex
) -> DataFrame:
    """One row per query in the DEMONSTRATIONS schema."""
    to_rows = partial(_to_rows, context.name, method, seed, pool)
    task = _search_task(to_rows, open_index, context.experiment.demonstrations)
    return queries.select("query_id", "split", "lang", "text", "parallel_id").mapInPandas(
        task, DEMONSTRATIONS.spark_schema()
    )


def trained_encoder(context: Context, recipe: str) -> EncoderConfig:
    """The retriever that the recipe gave.

    Raises:
        DataError: it has not been trained.
    """
    done = find_done(context, train_part(context, recipe))
    if done is None:
        raise DataError(f"recipe {recipe!r} has not been trained; run `xampler train ...` first")
    return as_trained(context.experiment.train.encoder, done.result["model_dir"])


def _openers(context: Context, method: Method, pool: CandidatePool) -> list[tuple[int, OpenIndex]]:
    """(seed, how workers open the index) of each drawing of the method."""
    match method:
        case MajorityMethod() | ZeroShotMethod():
            return [(0, EmptyIndex)]
        case RandomMethod():
            return [(seed, partial(RandomIndex, pool, seed)) for seed in method.seeds]
        case Bm25Method():
            index = Bm25Index(pool)
            return [(0, lambda: index)]
        case EncoderMethod():
            return [(0, encoder_index_opener(pool, method.encoder))]
        case TrainedMethod():
            return [(0, encoder_index_opener(pool, trained_encoder(context, method.recipe)))]


def _search_task(
    to_rows: Callable[[pd.DataFrame, list[list[Found]]], pd.DataFrame], open_index: OpenIndex, n: int
) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    def search_task(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        index = open_index()
        for batch in batches:
            if len(batch):
                ids, texts = batch["query_id"].tolist(), batch["text"].tolist()
                if isinstance(index, RandomIndex):
                    # Translations of one text get the same draw: a paired comparison of languages, and
                    # one computation of the demonstrations for all of them.
                    keys = batch["parallel_id"].fillna(batch["query_id"]).tolist()
                    yield to_rows(batch, index.search(ids, texts, n, keys))
                else:
                    yield to_rows(batch, index.search(ids, texts, n))

    return search_task


def _to_rows(
    experiment: str,
    method: str,
    seed: int,
    pool: CandidatePool,
    batch: pd.DataFrame,
    found: list[list[Found]],
) -> pd.DataFrame:
    # The most similar demonstration stands last, next to the query.
    ordered = [hits[::-1] for hits in found]
    ids = [[pool.ids[hit.position] for hit in hits] for hits in ordered]
    labels = [[pool.labels[hit.position] for hit in hits] for hits in ordered]
    columns = {
        "experiment": [experiment] * len(batch),
        "method": [method] * len(batch),
        "seed": [seed] * len(batch),
        "query_id": batch["query_id"].tolist(),
        "split": batch["split"].tolist(),
        "lang": batch["lang"].tolist(),
        "demonstration_ids": ids,
        "similarities": [[hit.similarity for hit in hits] for hits in ordered],
        "demonstrations_id": [demonstrations_id(*shown) for shown in zip(ids, labels, strict=True)],
    }
    return pd.DataFrame(columns)[DEMONSTRATIONS.column_names]


def _depends(context: Context, method: Method) -> dict[str, Any]:
    return {
        "method": method.model_dump(mode="json"),
        "demonstrations": context.experiment.demonstrations,
        "encoder": encoder_id(method.encoder) if isinstance(method, EncoderMethod) else None,
    }
