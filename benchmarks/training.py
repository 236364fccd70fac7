"""Steps of training the retriever at Glot500's shape: ``python -m benchmarks.training``.

InfoNCE with one hard negative by sentence-transformers' own trainer, and by ours under DeepSpeed with all,
the seen and no rows of the vocabulary trained. Each way has a process of its own.
"""

import multiprocessing
import os
import resource
import socket
import sys
import time
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from datasets import Dataset
from numpy.typing import NDArray
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from benchmarks import EMBEDDED, markdown_table
from benchmarks.embedding import GLOT500_ROWS, make_xlmr_shape
from xampler.core.pairing import NEGATIVE, POSITIVE, TRAIN
from xampler.mini.data import POOL_LANG, ParallelCorpus, read_corpus
from xampler.models.build import EncoderConfig
from xampler.training.dataset import draw_rows, plan_rows, training_queries
from xampler.training.deepspeed_engine import prepare_engine
from xampler.training.embeddings import choose_trained_rows
from xampler.training.evaluation import HeldOutEvaluator
from xampler.training.loop import build_trainer
from xampler.training.recipe import EngineConfig, InfoNceRecipe, TrainingSpec
from xampler.training.start import load_starting_encoder
from xampler.training.throughput import peak_flops, training_flops

_WARM_UP = 2  # steps that are not counted
_PLAIN = "sentence-transformers"
_HEADER = (
    "way",
    "rows trained",
    "s a step",
    "x sentence-transformers",
    "samples/s",
    "tokens/s",
    "most memory, GiB",
    "MFU",
)

Rows = Literal["all", "seen", "none"]


def main(
    data: Annotated[Path, typer.Option(help="SIB-200 folder, or another in its layout.")] = EMBEDDED,
    steps: Annotated[int, typer.Option(min=1, help="Measured steps; two more come before.")] = 8,
    batch_size: Annotated[int, typer.Option(min=2)] = 16,
    hidden: Annotated[int, typer.Option(help="A multiple of twelve; Glot500's is 768.")] = 768,
    layers: Annotated[int, typer.Option(min=1)] = 12,
    bf16: Annotated[bool, typer.Option(help="Weights and activations in bfloat16.")] = False,
) -> None:
    """Measure steps of batches of English queries, each with a positive and a hard negative."""
    corpus = read_corpus(data, "train")
    with TemporaryDirectory() as folder:
        encoder, shards = Path(folder, "encoder"), Path(folder, "shards")
        make_xlmr_shape(encoder, corpus, rows=GLOT500_ROWS, layers=layers, hidden=hidden)
        shards.mkdir()
        pq.write_table(pa.Table.from_pylist(_judged(corpus)), shards / "part-0.parquet")
        recipe = InfoNceRecipe(
            loss="infonce",
            learning_rate=1e-5,
            batch_size=batch_size,
            steps=_WARM_UP + steps,
            evaluate_every=_WARM_UP + steps,
            max_tokens=256,
        )
        ways: list[tuple[str, Rows]] = [(_PLAIN, "all")]
        if find_spec("deepspeed") is not None:
            ways += [("xampler", rows) for rows in ("all", "seen", "none")]
        figures = []
        for way, rows in ways:
            spec = TrainingSpec(
                encoder=EncoderConfig(model=str(encoder), max_tokens=256),
                recipe=recipe.model_copy(update={"train_embeddings": rows}),
                engine=EngineConfig(bf16=bf16),
                shards=str(shards),
                output=str(Path(folder, f"{way}-{rows}")),
                ranks=1,
            )
            with multiprocessing.get_context("spawn").Pool(1) as process:  # of its own: memory, engine
                figures.append(process.apply(measure_way, (way, spec)))
    rows_of_table = [_cells(way, figure, figures[0]) for (way, _), figure in zip(ways, figures, strict=True)]
    typer.echo(markdown_table(_HEADER, rows_of_table))


def _judged(corpus: ParallelCorpus) -> list[dict[str, Any]]:
    """Each English sentence with three of its label and three of others, drawn at random."""
    rng = np.random.default_rng(0)
    rows = corpus.rows_of(POOL_LANG)
    label_N = corpus.label_M[corpus.meaning_S[rows]]
    judged = []
    for number, row in enumerate(rows):
        same = np.flatnonzero((label_N == label_N[number]) & (np.arange(len(rows)) != number))
        other = np.flatnonzero(label_N != label_N[number])
        drawn = [(POSITIVE, i) for i in rng.choice(same, 3, replace=False)]
        drawn += [(NEGATIVE, i) for i in rng.choice(other, 3, replace=False)]
        candidates = [
            {
                "rank": rank,
                "candidate_id": str(i),
                "candidate_text": corpus.texts_S[rows[i]],
                "role": role,
                "same_label": role == POSITIVE,
                "gold_log_prob": -1.0,
            }
            for rank, (role, i) in enumerate(drawn)
        ]
        judged.append(
            {
                "query_id": str(number),
                "query_text": corpus.texts_S[row],
                "split": TRAIN,
                "candidates": candidates,
            }
        )
    return judged


class _Stopwatch(TrainerCallback):
    """When each step ended, and what was done by then."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def measure_way(way: str, spec: TrainingSpec) -> dict[str, float]:
    """What a step costs, without the first ones, and the most memory so far."""
    with redirect_stdout(sys.stderr):
        return _measure(way, spec)


def _be_the_only_rank() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def _measure(way: str, spec: TrainingSpec) -> dict[str, float]:
    epoch = training_queries(spec.shards, spec.recipe)
    plan = plan_rows(epoch, spec.recipe, 1)
    rows = list(draw_rows(epoch, spec.recipe, plan))
    if way != _PLAIN:
        _be_the_only_rank()
        prepare_engine()
    model = load_starting_encoder(spec.encoder)
    texts = (text for query in epoch() for text in (query.text, *(c.text for c in query.candidates)))
    trained = choose_trained_rows(model, spec.recipe, texts)
    trainer: SentenceTransformerTrainer
    if way == _PLAIN:
        trainer = _plain_trainer(model, spec, Dataset.from_list(rows))
    else:
        nothing = HeldOutEvaluator([], {}, POOL_LANG)
        trainer = build_trainer(model, epoch, plan, nothing, spec, Path(spec.output))
    flops_per_token, flops_per_square = training_flops(model)
    trainer.args.save_strategy = SaveStrategy.NO  # a checkpoint is no part of a step
    stopwatch = _Stopwatch()
    trainer.add_callback(stopwatch)
    trainer.train()
    measured = rows[_WARM_UP * plan.batch_size :]
    lengths_N = _lengths(model, [str(text) for row in measured for text in row.values()])
    seconds = stopwatch.ends[-1] - stopwatch.ends[_WARM_UP - 1]
    on_gpu = torch.cuda.is_available()
    most = (
        torch.cuda.max_memory_allocated()
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    figures = {
        "rows": trained,
        "step_s": seconds / (plan.steps - _WARM_UP),
        "samples_per_s": len(measured) / seconds,
        "tokens_per_s": lengths_N.sum() / seconds,
        "memory_gib": most / 2**30,
    }
    peak = peak_flops(torch.cuda.get_device_name()) if on_gpu else None
    if peak is not None:
        flops = flops_per_token * lengths_N.sum() + flops_per_square * (lengths_N**2).sum()
        figures["mfu"] = flops / seconds / peak
    return {name: float(value) for name, value in figures.items()}


def _lengths(model: SentenceTransformer, texts: list[str]) -> NDArray[np.int64]:
    """Tokens [N] of the texts."""
    return np.array([int(model.preprocess([text])["attention_mask"].sum()) for text in texts])


def _plain_trainer(
    model: SentenceTransformer, spec: TrainingSpec, rows: Dataset
) -> SentenceTransformerTrainer:
    recipe = spec.recipe
    assert isinstance(recipe, InfoNceRecipe)
    args = SentenceTransformerTrainingArguments(
        output_dir=spec.output,
        max_steps=recipe.steps or 1,
        per_device_train_batch_size=recipe.batch_size,
        bf16=spec.engine.bf16,
        learning_rate=recipe.learning_rate,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    return SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        loss=MultipleNegativesRankingLoss(model, scale=1 / recipe.temperature),
    )


def _cells(way: str, figures: dict[str, float], plain: dict[str, float]) -> list[str]:
    return [
        way,
        f"{figures['rows']:,.0f}",
        f"{figures['step_s']:.3f}",
        f"{plain['step_s'] / figures['step_s']:.1f}",
        f"{figures['samples_per_s']:.1f}",
        f"{figures['tokens_per_s']:,.0f}",
        f"{figures['memory_gib']:.1f}",
        f"{figures['mfu']:.0%}" if "mfu" in figures else "",
    ]


if __name__ == "__main__":
    typer.run(main)
