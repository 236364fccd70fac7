"""Sentence vectors: ours beside ``SentenceTransformer.encode``."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from benchmarks import Measurement, Way, markdown_table, measure
from xampler.mini.data import ParallelCorpus
from xampler.models.build import EncoderConfig, encoder_folder, load_encoder

_TEXTS = 288
_HEADER = (
    "encoder",
    "way",
    "sentences",
    "sentences/s",
    "CPU ms a sentence",
    "x sentence-transformers",
    "x in CPU time",
    "off ours",
)


def run_embedding(tests: ParallelCorpus) -> str:
    """Measure both shipped encoders on the same sentences of all languages; a table in Markdown."""
    different = sorted(set(tests.texts_S))
    chosen = np.random.default_rng(2).choice(len(different), size=min(_TEXTS, len(different)), replace=False)
    texts = [different[number] for number in chosen]
    rows = [cells for model in ("mini", "minilm") for cells in _rows(model, measure(_ways(model), texts))]
    return markdown_table(_HEADER, rows)


def _ways(model: str) -> tuple[Way, Way]:
    config = EncoderConfig(model=model, device="cpu")
    ours = load_encoder(config)
    theirs = SentenceTransformer(
        str(encoder_folder(config)), device="cpu", model_kwargs={"dtype": torch.float32}
    )

    def encode(texts: list[str]) -> NDArray[np.floating]:
        vectors: NDArray[np.floating] = theirs.encode(texts, show_progress_bar=False)
        return vectors

    return Way("sentence-transformers", encode), Way("xampler", ours.encode)


def _rows(model: str, measured: Sequence[Measurement]) -> list[list[str]]:
    theirs, ours = measured
    return [
        [
            model,
            one.way.name,
            str(one.texts),
            f"{1 / one.wall_s:,.0f}",
            f"{1000 * one.cpu_s:,.2f}",
            f"{theirs.wall_s / one.wall_s:.1f}",
            f"{theirs.cpu_s / one.cpu_s:.1f}",
            "" if one is ours else f"{one.deviation_from(ours):.0e}",
        ]
        for one in measured
    ]
