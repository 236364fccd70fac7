"""The candidate pool of an experiment, and how Spark workers open an index over it."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from xampler.core.prompt import Demonstration
from xampler.core.task import Task
from xampler.core.text import stable_hash
from xampler.models.build import EncoderConfig, load_encoder
from xampler.models.index import CandidateIndex, CandidatePool, EncoderIndex
from xampler.pipeline.context import Context
from xampler.pipeline.task_gpu import take_task_gpu
from xampler.pipeline.worker import keep_loaded
from xampler.tables.schema import CANDIDATES

OpenIndex = Callable[[], CandidateIndex]


def read_pool(context: Context) -> CandidatePool:
    """The experiment's candidates, ordered by id."""
    rows = context.store.read(CANDIDATES, experiment=context.name).orderBy("candidate_id").collect()
    return CandidatePool(
        ids=tuple(row["candidate_id"] for row in rows),
        texts=tuple(row["text"] for row in rows),
        labels=tuple(row["label"] for row in rows),
    )


def demonstrations_by_id(pool: CandidatePool, task: Task) -> dict[str, Demonstration]:
    """What each candidate looks like in a prompt."""
    return {
        candidate_id: Demonstration(text, task.words_of(label))
        for candidate_id, text, label in zip(pool.ids, pool.texts, pool.labels, strict=True)
    }


def demonstrations_id(ids: list[str], labels: list[str]) -> str:
    """Hash of demonstrations as a prompt shows them: ids, labels and order."""
    return stable_hash(*ids, *labels)


def encoder_index_opener(pool: CandidatePool, encoder: EncoderConfig) -> OpenIndex:
    """Embed the pool once, here; workers load the encoder for the queries only."""
    return partial(_open_encoder_index, pool, load_encoder(encoder).encode(list(pool.texts)), encoder)


def _open_encoder_index(
    pool: CandidatePool, candidate_emb_CD: NDArray[np.float32], encoder: EncoderConfig
) -> CandidateIndex:
    take_task_gpu()
    return EncoderIndex(pool, candidate_emb_CD, keep_loaded(load_encoder, encoder))
