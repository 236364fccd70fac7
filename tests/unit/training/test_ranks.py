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
SCHEDULE = {"learning_rate": 1e-3, "steps": STEPS, "evaluate_every": HALF, "max_tokens": 32}
INFONCE = {"loss": "infonce", "batch_size": 4, "temperature": 0.1}
CASES: dict[str, tuple[dict[str, object], EngineConfig]] = {
    "paper": ({"loss": "contrastive", "batch_size": 16}, EngineConfig(zero_stage=1)),
    "infonce": (INFONCE, EngineConfig(zero_stage=2)),
    "gold": (INFONCE | {"positives_by": "label", "train_embeddings": "seen"}, EngineConfig(zero_stage=0)),
    "distill": (
        {"loss": "distill", "batch_size": 4, "candidates": 5, "temperature": 0.1, "start_share": 0.25},
        EngineConfig(zero_stage=3, offload="cpu"),
    ),
}
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
        write_spec(folder, encoder_folder, recipe_of(CASES[name][0]))
        return train_retriever(str(folder / "spec.json"))

    return train


def test_two_ranks_equal_one(
    tmp_path: Path,
    encoder_folder: Path,
    write_spec: Callable[..., TrainingSpec],
    alone: Callable[[str], dict[str, Any]],
) -> None:
    runs = {name: name for name in CASES} | {"broken": "infonce"}
    for folder, name in runs.items():
        values, engine = CASES[name]
        write_spec(tmp_path / "ranks" / folder, encoder_folder, recipe_of(values), engine, 2)
    start_ranks([tmp_path / "ranks" / folder / "spec.json" for folder in runs], tmp_path / "ranks.log")
    plain = {name: alone(name) for name in CASES}
    for folder, name in runs.items():
        output = tmp_path / "ranks" / folder / "retriever"
        result = json.loads((output / RESULT_FILE).read_text(encoding="utf-8"))
        for figure in ("loss", "eval_held_out_map", "eval_parallel"):
            assert logged(result, figure) == pytest.approx(logged(plain[name], figure), abs=1e-4), folder
        kept, expected = (
            load_file(path / "model.safetensors")
            for path in (output, tmp_path / "alone" / name / "retriever")
        )
        assert kept.keys() == expected.keys()
        for weight in expected:
            if "pooler" not in weight:  # no checkpoint has it, so each load draws it anew
                torch.testing.assert_close(kept[weight], expected[weight], atol=1e-5, rtol=0)


def logged(result: dict[str, Any], name: str) -> list[float]:
    return [entry[name] for entry in result["history"] if name in entry]
