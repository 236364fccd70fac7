"""Training killed with SIGKILL goes on from its last whole checkpoint as if nothing had happened."""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from transformers import TrainerState, TrainingArguments

from xampler.training.checkpoint import WHOLE, KeepWholeCheckpoints, last_whole_checkpoint
from xampler.training.loop import train_retriever
from xampler.training.recipe import Recipe, TrainingSpec

pytestmark = pytest.mark.usefixtures("plain_trainer")

STEPS, EVERY = 24, 6
KILLED_AT = 15  # the last whole checkpoint is the one of step 12
FIGURES = ("loss", "grad_norm", "learning_rate", "eval_held_out_map", "eval_held_out_ndcg")
INFONCE: Recipe = TypeAdapter(Recipe).validate_python(
    {
        "loss": "infonce",
        "batch_size": 4,
        "temperature": 0.1,
        "word_dropout": 0.2,
        "learning_rate": 3e-3,
        "steps": STEPS,
        "evaluate_every": EVERY,
        "max_tokens": 32,
    }
)


def kill_itself(self: object, args: TrainingArguments, state: TrainerState, *_: object, **__: object) -> None:
    """The process dies after a step, as when a machine is lost."""
    if state.global_step == KILLED_AT:
        os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(spec_file: str) -> None:
    KeepWholeCheckpoints.on_step_end = kill_itself  # type: ignore[method-assign]
    train_retriever(spec_file)


def test_killed_training_ends_as_the_unbroken_one(
    tmp_path: Path, encoder_folder: Path, write_spec: Callable[..., TrainingSpec]
) -> None:
    specs = {}
    for name in ("unbroken", "killed"):
        write_spec(tmp_path / name, encoder_folder, INFONCE)
        specs[name] = str(tmp_path / name / "spec.json")
    process = multiprocessing.get_context("fork").Process(target=train_until_killed, args=(specs["killed"],))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    work = tmp_path / "killed" / "retriever.work"
    found = last_whole_checkpoint(work)
    assert found is not None
    assert found.name == "checkpoint-12"
    assert not (tmp_path / "killed" / "retriever").exists()
    # One that was being written when the machine went: its files are there, its mark is not.
    half = shutil.copytree(found, work / "checkpoint-18")
    (half / WHOLE).unlink()
    (half / "model.safetensors").write_bytes(b"half")

    unbroken, resumed = train_retriever(specs["unbroken"]), train_retriever(specs["killed"])
    for figure in FIGURES:
        assert curve(resumed, figure) == pytest.approx(curve(unbroken, figure), abs=1e-6), figure
    assert resumed["best"] == pytest.approx(unbroken["best"], abs=1e-6)
    weights = [load_file(tmp_path / name / "retriever" / "model.safetensors") for name in specs]
    for name, weight in weights[0].items():
        if "pooler" not in name:  # no checkpoint has it, so each load draws it anew
            torch.testing.assert_close(weights[1][name], weight, atol=1e-6, rtol=0)
    assert not work.exists()


def curve(result: dict[str, Any], figure: str) -> dict[int, float]:
    """By step; a step logged twice would show."""
    entries = [(entry["step"], entry[figure]) for entry in result["history"] if figure in entry]
    assert len(entries) == len(dict(entries))
    return dict(entries)


def checkpoint(folder: Path, step: int, *, whole: bool) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    (made / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if whole:
        (made / WHOLE).touch()
    return made


def test_the_last_whole_checkpoint_is_the_one_of_the_latest_step(tmp_path: Path) -> None:
    assert last_whole_checkpoint(tmp_path / "nothing") is None
    checkpoint(tmp_path, 9, whole=True)
    checkpoint(tmp_path, 10, whole=True)
    checkpoint(tmp_path, 11, whole=False)
    found = last_whole_checkpoint(tmp_path)
    assert found is not None
    assert found.name == "checkpoint-10"


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    folders = [checkpoint(tmp_path, step, whole=step < 4) for step in (1, 2, 3, 4)]
    state = TrainerState(global_step=4, best_model_checkpoint=str(folders[1]))
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    KeepWholeCheckpoints().on_save(arguments, state, None)  # type: ignore[arg-type]
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    assert last_whole_checkpoint(tmp_path) == folders[3]
