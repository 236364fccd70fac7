"""``python -m benchmarks``: every measurement, as tables in Markdown."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import EMBEDDED


def main(
    data: Annotated[Path, typer.Option(help="SIB-200 folder, or another in its layout.")] = EMBEDDED,
    threads: Annotated[int, typer.Option(min=1, max=2, help="Of torch and of the tokenizers.")] = 1,
) -> None:
    """Measure scoring and embedding with the mini models beside their peers, on the CPU."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # read at the tokenizers' first use

    import torch
    from transformers.utils import logging

    from benchmarks.embedding import run_embedding
    from benchmarks.scoring import run_scoring
    from xampler.errors import XamplerError
    from xampler.mini.data import read_corpus

    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    try:
        pool, tests = read_corpus(data, "train"), read_corpus(data, "test")
    except XamplerError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"torch {torch.__version__}, transformers {version('transformers')}, threads: {threads}")
    typer.echo(f"\n## Scoring\n\n{run_scoring(pool, tests)}")
    typer.echo(f"\n## Embedding\n\n{run_embedding(pool, tests)}")


if __name__ == "__main__":
    typer.run(main)
