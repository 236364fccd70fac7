"""``python -m benchmarks.gpu``: every section, or those that are named, as tables in Markdown."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers.utils import logging

from benchmarks import EMBEDDED
from benchmarks.gpu.device import OUT_OF_MEMORY, free_memory, run_ceiling, unless_out_of_memory
from benchmarks.gpu.encoder import run_embedding, run_training
from benchmarks.gpu.exactness import run_exactness
from benchmarks.gpu.scoring import run_lengths, run_scoring
from benchmarks.gpu.shapes import FULL, TINY, Setting
from xampler.errors import XamplerError
from xampler.mini.data import read_corpus


class Section(StrEnum):
    """What can be asked for."""

    CEILING = "ceiling"
    SCORING = "scoring"
    LENGTHS = "lengths"
    EXACTNESS = "exactness"
    EMBEDDING = "embedding"
    TRAINING = "training"


class ShapeName(StrEnum):
    """Of the models."""

    FULL = "full"
    TINY = "tiny"


_RUN: dict[Section, Callable[[Setting], str]] = {
    Section.CEILING: run_ceiling,
    Section.SCORING: run_scoring,
    Section.LENGTHS: run_lengths,
    Section.EXACTNESS: run_exactness,
    Section.EMBEDDING: run_embedding,
    Section.TRAINING: run_training,
}
_SHAPES = {ShapeName.FULL: FULL, ShapeName.TINY: TINY}


def main(
    sections: Annotated[list[Section] | None, typer.Argument(help="All unless told otherwise.")] = None,
    shape: Annotated[ShapeName, typer.Option(help="tiny: to try it, on a CPU too.")] = ShapeName.FULL,
    data: Annotated[Path, typer.Option(help="SIB-200 folder, or another in its layout.")] = EMBEDDED,
) -> None:
    """Measure scoring, embedding and training at the real models' shapes on a GPU."""
    if shape is ShapeName.FULL and not torch.cuda.is_available():
        typer.echo("Error: torch finds no GPU here; give --shape tiny to try it on the CPU", err=True)
        raise typer.Exit(2)
    try:
        pool, tests = read_corpus(data, "train"), read_corpus(data, "test")
    except XamplerError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    typer.echo(_describe(device, shape))
    setting = Setting(_SHAPES[shape], device, pool, tests)
    for section in sections or Section:
        started = time.perf_counter()
        table = run_section(section, setting)
        seconds = time.perf_counter() - started
        typer.echo(f"\n## {section.capitalize()}\n\n{table}\n\n({seconds:.0f} s)")


def run_section(section: Section, setting: Setting) -> str:
    """The section's tables, or what went wrong with it."""
    try:
        return unless_out_of_memory(partial(_RUN[section], setting)) or OUT_OF_MEMORY
    except XamplerError as error:
        return f"Error: {error}"
    finally:
        free_memory()


def _describe(device: torch.device, shape: ShapeName) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    packages = ", ".join(f"{each} {version(each)}" for each in ("transformers", "sentence-transformers"))
    today = datetime.now(UTC).date()
    return f"{today}, {name}, {shape} shape, torch {torch.__version__}, {packages}"


if __name__ == "__main__":
    typer.run(main)
