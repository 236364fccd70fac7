"""Worked examples: which queries are shown, and what the language model saw and said."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from xampler.core.language import Languages
from xampler.core.scoring import log_probs
from xampler.core.text import stable_hash
from xampler.pipeline.context import Context
from xampler.pipeline.outcomes import read_outcomes
from xampler.pipeline.pool import read_pool
from xampler.pipeline.prompts import prompt_keys
from xampler.pipeline.report.data import SPLIT, Example, ShownDemonstration
from xampler.tables.schema import DEMONSTRATIONS, PREDICTIONS, QUERIES

EXAMPLES = 6


@dataclass(frozen=True)
class LabelledQuery:
    """A query and what a method made of it."""

    query_id: str
    lang: str
    gold: str
    predicted: str


def choose_examples(
    labelled: Iterable[LabelledQuery], languages: Languages, pool_lang: str, count: int
) -> list[LabelledQuery]:
    """Right and wrong ones in turn, from as many languages, scripts and families as there are.

    The same rows in any order give the same choice; the pool's language comes last.
    """
    waiting: dict[bool, list[LabelledQuery]] = {True: [], False: []}
    for row in labelled:
        waiting[row.gold == row.predicted].append(row)
    known = {row.lang: languages.resolve(row.lang) for rows in waiting.values() for row in rows}
    shuffled = {lang: stable_hash(lang) for lang in known}
    used: Counter[str] = Counter()

    def rank(row: LabelledQuery) -> tuple[Any, ...]:
        language = known[row.lang]
        seen = used[row.lang], used[language.script], used[language.family]
        return row.lang == pool_lang, *seen, shuffled[row.lang], row.query_id

    chosen: list[LabelledQuery] = []
    while len(chosen) < count and any(waiting.values()):
        wanted = len(chosen) % 2 == 0
        best = min(waiting[wanted] or waiting[not wanted], key=rank)
        waiting[best.gold == best.predicted].remove(best)
        used.update((best.lang, known[best.lang].script, known[best.lang].family))
        chosen.append(best)
    return chosen


def read_examples(context: Context, languages: Languages, count: int = EXAMPLES) -> list[Example]:
    """Queries of the test split as the method under promotion labelled them."""
    method = context.experiment.promote.method
    demonstrations = context.store.read(DEMONSTRATIONS, experiment=context.name, method=method, split=SPLIT)
    outcomes = read_outcomes(context, demonstrations)
    columns = ["query_id", "lang", "gold", "predicted"]
    labelled = [LabelledQuery(*row) for row in outcomes[columns].itertuples(index=False)]
    chosen = choose_examples(labelled, languages, context.experiment.pool_lang, count)
    rows = {row["query_id"]: row for row in _example_rows(context, demonstrations, chosen).collect()}
    pool = read_pool(context)
    candidates = dict(zip(pool.ids, zip(pool.texts, pool.labels, strict=True), strict=True))
    return [_to_example(query, rows[query.query_id], candidates, context.task.labels) for query in chosen]


def _example_rows(context: Context, demonstrations: DataFrame, chosen: list[LabelledQuery]) -> DataFrame:
    predictions = context.store.read(PREDICTIONS, **prompt_keys(context))
    texts = context.store.read(QUERIES, experiment=context.name, split=SPLIT)
    return (
        demonstrations.where(F.col("query_id").isin([query.query_id for query in chosen]))
        .join(
            predictions.select("query_id", "demonstrations_id", "log_likelihoods", "demonstrations_dropped"),
            on=["query_id", "demonstrations_id"],
            how="inner",
        )
        .join(texts.select("query_id", "text"), on="query_id", how="inner")
        .select(
            "query_id",
            "text",
            "demonstration_ids",
            "similarities",
            "log_likelihoods",
            "demonstrations_dropped",
        )
    )


def _to_example(
    query: LabelledQuery, row: Row, candidates: dict[str, tuple[str, str]], labels: tuple[str, ...]
) -> Example:
    share_L = np.exp(log_probs(np.array([row["log_likelihoods"]])))[0]
    shown = list(zip(row["demonstration_ids"], row["similarities"], strict=True))
    return Example(
        lang=query.lang,
        text=row["text"],
        gold=query.gold,
        predicted=query.predicted,
        probabilities=dict(zip(labels, share_L.tolist(), strict=True)),
        # What did not fit into the prompt is not shown: the first ones were left out.
        demonstrations=[
            ShownDemonstration(*candidates[candidate_id], similarity)
            for candidate_id, similarity in shown[row["demonstrations_dropped"] :]
        ],
    )
