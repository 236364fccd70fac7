"""Linear layers by oneDNN beside torch's own: ``python -m benchmarks.cpu_linear``, on one thread."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated
from unittest.mock import patch

import typer

from benchmarks import EMBEDDED, Way, markdown_table, measure

_EVERY = 3  # of the one-shot prompts


def main(
    data: Annotated[Path, typer.Option(help="SIB-200 folder, or another in its layout.")] = EMBEDDED,
) -> None:
    """Score and embed with both, in one run on the same texts."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # read at the tokenizers' first use

    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    rows = []
    with TemporaryDirectory() as folder:
        for name, texts, ways in _work(data, Path(folder)):
            own, onednn = measure(ways, texts)
            rows.append(
                [
                    name,
                    str(own.texts),
                    f"{1000 * own.cpu_s:,.2f}",
                    f"{1000 * onednn.cpu_s:,.2f}",
                    f"{own.cpu_s / onednn.cpu_s:.2f}",
                    f"{onednn.deviation_from(own):.0e}",
                ]
            )
    header = ("what", "texts", "torch's own, CPU ms a text", "oneDNN, CPU ms", "x", "apart")
    typer.echo(markdown_table(header, rows))


def _work(data: Path, folder: Path) -> Iterator[tuple[str, list[str], list[Way]]]:
    from benchmarks.embedding import make_xlmr_shape, sentences_of_all_languages
    from benchmarks.scoring import SHAPES, make_random, signal_prompts
    from xampler.core.task import Task
    from xampler.mini.data import read_corpus
    from xampler.models import cpu_linear
    from xampler.models.build import EncoderConfig, LanguageModelConfig, load_encoder, load_language_model

    pool, tests = read_corpus(data, "train"), read_corpus(data, "test")
    task = Task(name="sib200", labels=pool.labels)
    prompts = signal_prompts(task, pool, shared=True)[::_EVERY]
    models = {"mini": "mini"}
    for shape in SHAPES:
        models[shape.name] = str(folder / shape.name)
        make_random(folder / shape.name, shape, pool)
    for name, model in models.items():
        config = LanguageModelConfig(model=model, device="cpu")
        with patch.object(cpu_linear, "_usable", return_value=False):
            plain = load_language_model.__wrapped__(config)
        ways = [
            Way(how, partial(one.score_labels, label_words=task.label_words))
            for how, one in (("torch", plain), ("oneDNN", load_language_model(config)))
        ]
        yield f"one-shot prompts, {name}", prompts, ways
    sentences = sentences_of_all_languages(tests)
    xlmr = folder / "xlmr"
    make_xlmr_shape(xlmr, pool)
    for name, model in {"mini": "mini", "minilm": "minilm", "XLM-R shape": str(xlmr)}.items():
        for dtype in ("float32", "bfloat16"):
            encoder = EncoderConfig.model_validate({"model": model, "device": "cpu", "dtype": dtype})
            with patch.object(cpu_linear, "_usable", return_value=False):
                plain_encoder = load_encoder.__wrapped__(encoder)
            ways = [
                Way("torch", plain_encoder.encode),
                Way("oneDNN", load_encoder(encoder).encode),
            ]
            yield f"sentences, {name}, {dtype}", sentences, ways


if __name__ == "__main__":
    typer.run(main)
