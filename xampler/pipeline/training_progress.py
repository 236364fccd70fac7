"""The steps of a training run on the user's screen, while its ranks write to the log."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

from xampler.pipeline.progress import Progress
from xampler.pipeline.session import output_to
from xampler.training.steps import forget_steps, read_steps

SECONDS_BETWEEN_LOOKS = 1.0


@contextmanager
def show_steps(progress: Progress, what: str, work: Path, log_file: Path) -> Iterator[None]:
    """Send the output of child processes to the log, and show how far the run in ``work`` has come."""
    over = threading.Event()
    forget_steps(work)
    # This process keeps writing to the screen; what it starts inherits the log.
    with (
        os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8") as screen,
        output_to(log_file),
        redirect_stderr(screen),
    ):
        watch = threading.Thread(target=_watch, args=(progress, what, work, over), daemon=True)
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join()


def _watch(progress: Progress, what: str, work: Path, over: threading.Event) -> None:
    told = None
    while told is None:
        if over.wait(SECONDS_BETWEEN_LOOKS):
            return
        told = read_steps(work)
    shown, steps = 0, told[1]
    with progress.track(what, steps, "steps") as advance:
        while True:
            done = (read_steps(work) or (shown, steps))[0]
            advance(done - shown)
            shown = done
            if over.wait(SECONDS_BETWEEN_LOOKS):
                return
