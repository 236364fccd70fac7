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
from transformers import TrainerControl, TrainerState, TrainingArguments

from xampler.training.checkpoint import WHOLE, KeepWholeCheckpoints, last_whole_checkpoint, step_of
from xampler.training.evaluation import HeldOutEvaluator
from xampler.training.loop import train_retriever
from xampler.training.recipe import Recipe, TrainingSpec

pytestmark = pytest.mark.usefixtures("plain_trainer")

STEPS, EVERY = 24, 6
KILLED_AT, LAST_WHOLE = 15, 12
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


def train_until_killed(spec_file: str, moment: str, step: int) -> None:
    """The process dies at a callback's ``moment`` after a step, as when a machine is lost."""

    def kill_itself(
        _: object, __: TrainingArguments, state: TrainerState, *___: object, **____: object
    ) -> None:
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(KeepWholeCheckpoints, moment, kill_itself)
    train_retriever(spec_file)


@pytest.fixture
def kill(
    tmp_path: Path, dropout_encoder: Path, write_spec: Callable[..., TrainingSpec]
) -> Callable[[Recipe, str, int], Path]:
    """``kill(recipe, moment, step)``: the work folder that is left; the encoder draws dropout."""

    def run(recipe: Recipe, moment: str, step: int) -> Path:
        for name in ("unbroken", "killed"):
            write_spec(tmp_path / name, dropout_encoder, recipe)
        arguments = (str(tmp_path / "killed" / "spec.json"), moment, step)
        process = multiprocessing.get_context("fork").Process(target=train_until_killed, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (tmp_path / "killed" / "retriever").exists()
        return tmp_path / "killed" / "retriever.work"

    return run


def assert_goes_on_as_unbroken(folder: Path) -> dict[str, Any]:
    """Figures and weights of the killed run, begun again, are those of the unbroken one, returned."""
    names = ("unbroken", "killed")
    unbroken, resumed = (train_retriever(str(folder / name / "spec.json")) for name in names)
    for figure in FIGURES:
        assert curve(resumed, figure) == pytest.approx(curve(unbroken, figure), abs=1e-6), figure
    assert resumed["best"] == pytest.approx(unbroken["best"], abs=1e-6)
    weights = [load_file(folder / name / "retriever" / "model.safetensors") for name in names]
    for name, weight in weights[0].items():
        if "pooler" not in name:  # no checkpoint has it, so each load draws it anew
            torch.testing.assert_close(weights[1][name], weight, atol=1e-6, rtol=0)
    return unbroken


def test_killed_training_ends_as_the_unbroken_one(
    tmp_path: Path, kill: Callable[[Recipe, str, int], Path]
) -> None:
    work = kill(INFONCE, "on_step_end", KILLED_AT)
    found = last_whole_checkpoint(work)
    assert found is not None
    assert step_of(found) == LAST_WHOLE
    # One that was being written when the machine went: its files are there, its mark is not.
    half = shutil.copytree(found, work / "checkpoint-18")
    (half / WHOLE).unlink()
    (half / "model.safetensors").write_bytes(b"half")
    assert len(curve(assert_goes_on_as_unbroken(tmp_path), "loss")) == STEPS
    assert not work.exists()


@pytest.mark.parametrize(
    ("moment", "step"), [("on_step_end", 10), ("on_train_end", 12)], ids=["waiting", "at-its-end"]
)
def test_patience_goes_on_counting(
    tmp_path: Path,
    kill: Callable[[Recipe, str, int], Path],
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    step: int,
) -> None:
    def evaluate(self: object, model: object, *_: object, steps: int = 0, **__: object) -> dict[str, float]:
        return {"held_out_map": -abs(steps - 6.0)}  # best at step 6, so that patience is at its end at 12

    monkeypatch.setattr(HeldOutEvaluator, "__call__", evaluate)
    kill(INFONCE.model_copy(update={"evaluate_every": 3, "patience": 2}), moment, step)
    unbroken = assert_goes_on_as_unbroken(tmp_path)
    assert list(curve(unbroken, "eval_held_out_map")) == [3, 6, 9, 12]
    assert len(curve(unbroken, "loss")) == 12


def test_training_that_was_killed_when_all_steps_were_done_repeats_none(
    tmp_path: Path, kill: Callable[[Recipe, str, int], Path]
) -> None:
    kill(INFONCE, "on_train_end", STEPS)
    unbroken = assert_goes_on_as_unbroken(tmp_path)
    assert list(curve(unbroken, "eval_held_out_map")) == [6, 12, 18, 24]


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


def test_a_checkpoint_is_not_written_again_when_training_goes_on(tmp_path: Path) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    restored = TrainerControl(should_save=True)
    KeepWholeCheckpoints().on_train_begin(arguments, TrainerState(), restored)
    assert not restored.should_save


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    folders = [checkpoint(tmp_path, step, whole=step < 4) for step in (1, 2, 3, 4)]
    state = TrainerState(global_step=4, best_model_checkpoint=str(folders[1]))
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    KeepWholeCheckpoints().on_save(arguments, state, None)  # type: ignore[arg-type]
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    assert last_whole_checkpoint(tmp_path) == folders[3]
