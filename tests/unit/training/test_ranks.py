"""Two DeepSpeed ranks compute what one plain process does: started once for all recipes and stages."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file

from xampler.training.loop import train_retriever
from xampler.training.recipe import RESULT_FILE, EngineConfig, Recipe, TrainingSpec

STEPS, HALF = 20, 10
# The margin grows as long as training goes on: the weights that are kept, and compared, are the last.
SCHEDULE = {
    "learning_rate": 1e-3,
    "steps": STEPS,
    "evaluate_every": HALF,
    "max_tokens": 32,
    "metric": "margin",
}
INFONCE = {"loss": "infonce", "batch_size": 4, "temperature": 0.1}
RECIPES: dict[str, dict[str, object]] = {
    "paper": {"loss": "contrastive", "batch_size": 16},
    "infonce": INFONCE,
    "gold": INFONCE | {"positives_by": "label", "train_embeddings": "seen"},
    "distill": {
        "loss": "distill",
        "batch_size": 4,
        "candidates": 5,
        "temperature": 0.1,
        "start_share": 0.25,
    },
}
# Two ranks each; the pairs of `paper` are judged one by one, so that micro-batches change nothing.
RUNS: dict[str, tuple[str, EngineConfig]] = {
    "paper": ("paper", EngineConfig(zero_stage=1)),
    "accumulated": (
        "paper",
        EngineConfig(zero_stage=2, accumulation_steps=2, gradient_checkpointing=True, offload="cpu"),
    ),
    "bfloat16": ("paper", EngineConfig(zero_stage=2, bf16=True)),
    "infonce": ("infonce", EngineConfig(zero_stage=2)),
    "broken": ("infonce", EngineConfig(zero_stage=2)),
    "gold": ("gold", EngineConfig(zero_stage=0)),
    "distill": ("distill", EngineConfig(zero_stage=3, offload="cpu")),
}
FIGURES = {"loss": 1e-4, "eval_held_out_margin": 1e-4, "eval_held_out_map": 1e-4, "eval_parallel": 1e-4}
# A bfloat16 has 8 bits; two texts that lie alike change places, so that ranks of texts are not compared.
ROUNDED_FIGURES = {"loss": 2e-3, "eval_held_out_margin": 2e-3}
# Trains every spec; one of them is broken off in its second half and begun again.
RANK = """
import sys
from xampler.training import loop
from xampler.training.checkpoint import KeepWholeCheckpoints

class BrokenOff(Exception):
    pass

def break_off(self, args, state, control, **_):
    if state.global_step == 13:
        raise BrokenOff

for spec in sys.argv[1:]:
    if "broken" in spec:
        KeepWholeCheckpoints.on_step_end = break_off
        try:
            loop.train_retriever(spec)
        except BrokenOff:
            del KeepWholeCheckpoints.on_step_end
    loop.train_retriever(spec)
"""


def recipe_of(values: dict[str, object]) -> Recipe:
    recipe: Recipe = TypeAdapter(Recipe).validate_python(SCHEDULE | values)
    return recipe


def start_ranks(specs: list[Path], log: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    cpu = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RANK, *map(str, specs)]
    with log.open("w") as file:
        ranks = [
            subprocess.Popen(
                command,
                env=os.environ | shared | cpu | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            for rank in range(2)
        ]
        try:
            ended = [rank.wait(timeout=600) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
    assert ended == [0, 0], log.read_text(encoding="utf-8")[-5000:]


@pytest.fixture
def alone(
    tmp_path: Path, encoder_folder: Path, write_spec: Callable[..., TrainingSpec], plain_trainer: None
) -> Callable[[str], dict[str, Any]]:
    """The case trained by one plain process."""

    def train(name: str) -> dict[str, Any]:
        folder = tmp_path / "alone" / name
        write_spec(folder, encoder_folder, recipe_of(RECIPES[name]))
        return train_retriever(str(folder / "spec.json"))

    return train


def test_two_ranks_equal_one(
    tmp_path: Path,
    encoder_folder: Path,
    write_spec: Callable[..., TrainingSpec],
    alone: Callable[[str], dict[str, Any]],
) -> None:
    for run, (name, engine) in RUNS.items():
        write_spec(tmp_path / "ranks" / run, encoder_folder, recipe_of(RECIPES[name]), engine, 2)
    start_ranks([tmp_path / "ranks" / run / "spec.json" for run in RUNS], tmp_path / "ranks.log")
    plain = {name: alone(name) for name in RECIPES}
    for run, (name, engine) in RUNS.items():
        output = tmp_path / "ranks" / run / "retriever"
        result = json.loads((output / RESULT_FILE).read_text(encoding="utf-8"))
        assert result["best"] == logged(result, "eval_held_out_margin")[-1], run
        for figure, near in (ROUNDED_FIGURES if engine.bf16 else FIGURES).items():
            assert logged(result, figure) == pytest.approx(logged(plain[name], figure), abs=near), run
        kept, expected = (
            load_file(path / "model.safetensors")
            for path in (output, tmp_path / "alone" / name / "retriever")
        )
        assert kept.keys() == expected.keys()
        for weight in expected:
            if "pooler" not in weight:  # no checkpoint has it, so each load draws it anew
                atol, rtol = (2e-3, 2**-8) if engine.bf16 else (1e-5, 0)
                torch.testing.assert_close(kept[weight].float(), expected[weight], atol=atol, rtol=rtol)


def logged(result: dict[str, Any], name: str) -> list[float]:
    return [entry[name] for entry in result["history"] if name in entry]
