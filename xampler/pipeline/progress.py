"""Progress of long work: bars on a terminal, plain lines elsewhere."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 15.0


class Advance(Protocol):
    """Called with the number of rows that are done."""

    def __call__(self, rows: int) -> None: ...


class Progress:
    """Shows how far a count of rows has come, in the way that fits the screen."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet

    @contextmanager
    def track(self, what: str, total: int) -> Iterator[Advance]:
        """Show work on ``total`` rows while the block runs."""
        if self._quiet:
            yield lambda rows: None
        elif self._console.is_terminal:
            with self._bar(what, total) as advance:
                yield advance
        else:
            yield _Lines(what, total)

    @contextmanager
    def _bar(self, what: str, total: int) -> Iterator[Advance]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with RichProgress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda rows: bar.advance(task, rows)


class _Lines:
    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._started = self._last = time.monotonic()

    def __call__(self, rows: int) -> None:
        self._done += rows
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            rate = self._done / (now - self._started)
            logger.info("%s: %d of %d rows, %.0f rows/s", self._what, self._done, self._total, rate)
