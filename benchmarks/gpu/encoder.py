"""The encoder at Glot500's shape: texts embedded, and steps of training.

Shapes: B rows of a batch, T tokens.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import AutoTokenizer

from benchmarks import markdown_table, measure
from benchmarks.embedding import EMBEDDING_HEADER, encoder_rows, encoder_ways, make_xlmr_shape
from benchmarks.gpu.device import (
    OUT_OF_MEMORY,
    free_memory,
    in_gib,
    measured_ceiling,
    peak_gib,
    reset_peak,
    synchronize,
    unless_out_of_memory,
)
from benchmarks.gpu.shapes import Setting
from xampler.models.build import load_encoder
from xampler.training.throughput import peak_flops, training_flops

_MAX_TOKENS = 256
_MOST_SENTENCES = 4  # of a text
_COLUMNS = 3  # query, positive, hard negative
_SPECIAL_TOKENS = 4
_WARM_UP, _STEPS = 2, 6
_WAY = "forward, backward, AdamW"
_TRAINING = (
    "way",
    "batch",
    "s a step",
    "samples/s",
    "tokens/s",
    "TFLOP/s",
    "of the ceiling",
    "MFU by the data sheet",
    "most memory, GiB",
)


def run_embedding(setting: Setting) -> str:
    """Texts of one to four sentences; a table in Markdown."""
    texts = make_texts(setting)
    with _encoder_folder(setting) as folder:
        ids = AutoTokenizer.from_pretrained(folder)(texts, truncation=True, max_length=_MAX_TOKENS)[
            "input_ids"
        ]
        measured = measure(encoder_ways(folder, setting.device.type), texts)
    load_encoder.cache_clear()
    free_memory()
    caption = f"Texts of {np.mean([len(own) for own in ids]):.0f} tokens on average:"
    shape = setting.shape.encoder
    name = f"{shape.layers} layers, {shape.hidden} wide"
    return f"{caption}\n\n{markdown_table(EMBEDDING_HEADER, encoder_rows(name, measured))}"


def run_training(setting: Setting) -> str:
    """Steps of InfoNCE with a hard negative, batches as large as memory allows; a table in Markdown."""
    rows = []
    with _encoder_folder(setting) as folder:
        for batch in setting.shape.batches:
            cells = unless_out_of_memory(partial(_measure_steps, setting, folder, batch))
            free_memory()
            rows.append(cells or [_WAY, f"{batch:,}", OUT_OF_MEMORY, *[""] * (len(_TRAINING) - 3)])
            if cells is None:
                break
    return markdown_table(_TRAINING, rows)


def make_texts(setting: Setting) -> list[str]:
    """Different texts of all languages, each of some sentences of one language."""
    rng = np.random.default_rng(3)
    corpora = (setting.pool, setting.tests)
    sentences = [
        [corpus.texts_S[row] for row in corpus.rows_of(lang)] for corpus in corpora for lang in corpus.langs
    ]
    texts: dict[str, None] = {}
    while len(texts) < setting.shape.texts:
        own = sentences[rng.integers(len(sentences))]
        texts[" ".join(rng.choice(own, size=rng.integers(1, _MOST_SENTENCES + 1)))] = None
    return list(texts)


@contextmanager
def _encoder_folder(setting: Setting) -> Iterator[str]:
    shape = setting.shape.encoder
    with TemporaryDirectory() as folder:
        make_xlmr_shape(Path(folder), setting.pool, rows=shape.rows, layers=shape.layers, hidden=shape.hidden)
        yield folder


def _measure_steps(setting: Setting, folder: str, batch: int) -> list[str]:
    """Weights in float32, activations in bfloat16, AdamW; every text as long as it may be."""
    device, tokens = setting.device, setting.shape.text_tokens
    reset_peak(device)
    model = SentenceTransformer(folder, device=str(device))
    loss = MultipleNegativesRankingLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device.type == "cuda")
    columns_BT = [_random_ids(setting, batch) for _ in range(_COLUMNS)]
    model.train()

    def step() -> None:
        features = [{"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)} for ids_BT in columns_BT]
        with torch.autocast(device.type, dtype=torch.bfloat16):
            value = loss(features, torch.empty(0))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(_WARM_UP):
        step()
    synchronize(device)
    started = time.perf_counter()
    for _ in range(_STEPS):
        step()
    synchronize(device)
    seconds = (time.perf_counter() - started) / _STEPS
    per_token, per_square = training_flops(model)
    flops_per_s = _COLUMNS * batch * (per_token * tokens + per_square * tokens**2) / seconds
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return [
        _WAY,
        f"{batch:,}",
        f"{seconds:.3f}",
        f"{batch / seconds:,.1f}",
        f"{_COLUMNS * batch * tokens / seconds:,.0f}",
        f"{flops_per_s / 1e12:,.3g}",
        f"{flops_per_s / measured_ceiling(setting):.0%}",
        "" if peak is None else f"{flops_per_s / peak:.0%}",
        in_gib(peak_gib(device)),
    ]


def _random_ids(setting: Setting, batch: int) -> torch.Tensor:
    size = (batch, setting.shape.text_tokens)
    return torch.randint(_SPECIAL_TOKENS, setting.shape.encoder.rows, size, device=setting.device)
