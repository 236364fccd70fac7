"""How far a training run has come, told through a file: whoever launched the ranks only waits for them."""

from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_FILE = "steps"


class TellSteps(TrainerCallback):
    """Writes the number of steps that are done, and of all, after each step."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Called by the trainer on every rank."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir or ".")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _FILE).write_text(f"{state.global_step} {state.max_steps}", encoding="utf-8")


def read_steps(work: Path) -> tuple[int, int] | None:
    """Steps that are done and all steps, as last told; None before the first one."""
    try:
        done, steps = (work / _FILE).read_text(encoding="utf-8").split()
    except (OSError, ValueError):  # not written yet, or just being written
        return None
    return int(done), int(steps)


def forget_steps(work: Path) -> None:
    """Forget what a run that was broken off told."""
    (work / _FILE).unlink(missing_ok=True)
