import io
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from xampler.pipeline import training_progress
from xampler.pipeline.progress import Progress
from xampler.pipeline.training_progress import show_steps
from xampler.training.steps import read_steps


def test_steps_on_the_screen_and_the_ranks_words_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_progress, "SECONDS_BETWEEN_LOOKS", 0.01)
    screen, log, work = io.StringIO(), tmp_path / "log", tmp_path / "work"
    work.mkdir()
    progress = Progress(Console(file=screen, force_terminal=True, width=120))
    with show_steps(progress, "train/infonce", work, log):
        os.write(2, b"a rank says\n")  # as a child process would
        for told in ("1 10", "", "4 10"):
            (work / "steps").write_text(told)
            time.sleep(0.2)
    assert read_steps(work) == (4, 10)
    assert "train/infonce" in screen.getvalue()
    assert "4/10" in screen.getvalue()
    assert "steps/s" in screen.getvalue()
    assert log.read_text() == "a rank says\n"


def test_ranks_that_end_before_the_first_step_show_nothing(tmp_path: Path) -> None:
    screen = io.StringIO()
    (tmp_path / "steps").write_text("7 10")  # of a run that was broken off
    with show_steps(Progress(Console(file=screen, force_terminal=True)), "train", tmp_path, tmp_path / "log"):
        assert read_steps(tmp_path) is None
    assert screen.getvalue() == ""
