"""Checkpoints that count only when they are whole, and training that goes on from the last of them."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

WHOLE = "whole"  # an empty file in a checkpoint that every rank has written to the end
_STATE = "trainer_state.json"


class KeepWholeCheckpoints(TrainerCallback):
    """Marks a checkpoint when all ranks have written it, then drops those that are not needed."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Called by the trainer on every rank, with the control that it restored from a checkpoint."""
        # Restored as it was when the checkpoint was written: it asks for that one again, under its mark.
        control.should_save = False

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Called by the trainer on every rank after its part of the checkpoint."""
        if dist.is_available() and dist.is_initialized():
            dist.barrier()
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir or ".")
        newest = folder / f"checkpoint-{state.global_step}"
        (newest / WHOLE).touch()
        best = Path(state.best_model_checkpoint).name if state.best_model_checkpoint else ""
        for other in folder.glob("checkpoint-*"):
            if other.name not in (newest.name, best):
                # The mark goes first: a checkpoint half deleted is as bad as one half written.
                (other / WHOLE).unlink(missing_ok=True)
                shutil.rmtree(other)


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the latest step that is whole."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The step after which it was written."""
    return int(_state_of(checkpoint)["global_step"])


def ends_training(checkpoint: Path) -> bool:
    """Whether training was to stop there: all steps done, or patience at its end."""
    control = _state_of(checkpoint)["stateful_callbacks"]["TrainerControl"]
    return bool(control["args"]["should_training_stop"])


def _state_of(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    return state
