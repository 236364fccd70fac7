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
    """Called with what is done since, in rows or steps, and the tokens that a language model read for it.

    ``more``: what else to show, of all that is done so far.
    """

    def __call__(self, rows: int, tokens: int = 0, more: str = "") -> None: ...


class Progress:
    """Shows how far a count of rows or steps has come, in the way that fits the screen."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet

    @contextmanager
    def track(self, what: str, total: int, unit: str = "rows") -> Iterator[Advance]:
        """Show work on ``total`` rows, or other units, while the block runs."""
        if self._quiet:
            yield lambda rows, tokens=0, more="": None
        elif self._console.is_terminal:
            with self._bar(what, total, unit) as advance:
                yield advance
        else:
            yield _Lines(what, total, unit)

    @contextmanager
    def _bar(self, what: str, total: int, unit: str) -> Iterator[Advance]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}"),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(what, total=total, rates="")
            rates = _Rates(unit)

            def advance(rows: int, tokens: int = 0, more: str = "") -> None:
                rates.add(rows, tokens, more)
                bar.update(task, advance=rows, rates=rates.say())

            yield advance


class _Rates:
    """Rows or other units, and tokens where there are any, per second since the start; what else is told."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._more = ""
        self.rows = self.tokens = 0
        self._started = time.monotonic()

    def add(self, rows: int, tokens: int, more: str) -> None:
        self.rows += rows
        self.tokens += tokens
        self._more = more

    def say(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        rates = [f"{self.rows / seconds:,.{0 if self._unit == 'rows' else 1}f} {self._unit}/s"]
        if self.tokens:
            rates.append(f"{self.tokens / seconds:,.0f} tokens/s")
        return ", ".join([*rates, self._more] if self._more else rates)


class _Lines:
    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._rates = _Rates(unit)
        self._last = time.monotonic()

    def __call__(self, rows: int, tokens: int = 0, more: str = "") -> None:
        self._rates.add(rows, tokens, more)
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            done, said = self._rates.rows, self._rates.say()
            logger.info("%s: %d of %d %s, %s", self._what, done, self._total, self._unit, said)
