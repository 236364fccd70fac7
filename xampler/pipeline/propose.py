"""Propose: the top k candidates of each training query, into ``pairs``."""

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from xampler.core.pairing import PROPOSED
from xampler.models.build import encoder_id
from xampler.models.index import Bm25Index, CandidatePool
from xampler.pipeline.context import Context
from xampler.pipeline.experiment import Bm25Method, EncoderMethod
from xampler.pipeline.ingest import ingest_part
from xampler.pipeline.pool import OpenIndex, encoder_index_opener, read_pool
from xampler.pipeline.stage import Outcome, Part
from xampler.tables.schema import CANDIDATES, PAIRS
from xampler.tracking.run import Run


def propose_part(context: Context) -> Part:
    """The stage, for this experiment."""
    return Part(
        stage="propose",
        depends=lambda: _depends(context),
        run=lambda run: propose_pairs(context, run),
        before=(ingest_part(context),),
        reads=(CANDIDATES,),
        writes=(PAIRS,),
    )


def propose_pairs(context: Context, run: Run) -> Outcome:
    """Replace the experiment's pairs; a query is never its own candidate, nor is a duplicate of its text."""
    pool = read_pool(context)
    return Outcome(replace_pairs(context, pool, _opener(context.experiment.propose.by, pool), PROPOSED))


def replace_pairs(context: Context, pool: CandidatePool, open_index: OpenIndex, proposer: str) -> int:
    """Replace the pairs of one proposer by the nearest candidates in its index; returns their number."""
    name, k = context.name, context.experiment.propose.k

    def propose_task(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        index = open_index()
        for batch in batches:
            found = index.search(batch["candidate_id"].tolist(), batch["text"].tolist(), k)
            yield pd.DataFrame(
                [
                    (name, proposer, query_id, pool.ids[hit.position], rank, hit.similarity)
                    for query_id, hits in zip(batch["candidate_id"], found, strict=True)
                    for rank, hit in enumerate(hits)
                ],
                columns=PAIRS.column_names,
            )

    # The training queries are the pool: English examples judge one another.
    queries = context.store.read(CANDIDATES, experiment=context.name).select("candidate_id", "text")
    pairs = queries.mapInPandas(propose_task, PAIRS.spark_schema())
    return context.store.replace(PAIRS, pairs, experiment=name, proposer=proposer)


def _opener(by: EncoderMethod | Bm25Method, pool: CandidatePool) -> OpenIndex:
    match by:
        case Bm25Method():
            index = Bm25Index(pool)
            return lambda: index
        case EncoderMethod():
            return encoder_index_opener(pool, by.encoder)


def _depends(context: Context) -> dict[str, Any]:
    config = context.experiment.propose
    model = encoder_id(config.by.encoder) if isinstance(config.by, EncoderMethod) else None
    return {"config": config.model_dump(mode="json"), "encoder": model}
