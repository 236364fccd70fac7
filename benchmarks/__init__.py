"""The costly parts beside their peers: ``python -m benchmarks``, explained in docs/benchmarks.md.

Shapes: N texts, D columns.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

EMBEDDED = Path(__file__).parents[1] / "xampler" / "data" / "embedded"
_ROUNDS = 3


@dataclass(frozen=True)
class Way:
    """One way to compute an array [N, D] from N texts."""

    name: str
    compute: Callable[[list[str]], NDArray[np.floating]]
    every: int = 1  # a slow way is given every n-th text only


@dataclass(frozen=True)
class Measurement:
    """What a way took per text, and its result."""

    way: Way
    texts: int
    wall_s: float
    cpu_s: float  # of all threads; less disturbed by other work on the machine
    rows_ND: NDArray[np.floating]

    def deviation_from(self, whole: "Measurement") -> float:
        """Largest difference to the same rows of a way that was given all texts."""
        return float(np.abs(self.rows_ND - whole.rows_ND[:: self.way.every]).max())


def measure(ways: Sequence[Way], texts: Sequence[str], rounds: int = _ROUNDS) -> list[Measurement]:
    """Run the ways in turn, ``rounds`` times: the medians, so that a busy moment counts for none of them."""
    given = [list(texts[:: way.every]) for way in ways]
    for way, own in zip(ways, given, strict=True):
        way.compute(own[:2])  # buffers and threads are made at the first call
    runs_of = [[_measure_once(way, own) for way, own in zip(ways, given, strict=True)] for _ in range(rounds)]
    return [
        Measurement(
            way=runs[0].way,
            texts=runs[0].texts,
            wall_s=float(np.median([run.wall_s for run in runs])),
            cpu_s=float(np.median([run.cpu_s for run in runs])),
            rows_ND=runs[0].rows_ND,
        )
        for runs in zip(*runs_of, strict=True)
    ]


def _measure_once(way: Way, texts: list[str]) -> Measurement:
    wall, cpu = time.perf_counter(), time.process_time()
    rows_ND = way.compute(texts)
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return Measurement(way, len(texts), wall_s / len(texts), cpu_s / len(texts), rows_ND)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: the first two columns are names, the others figures."""
    rule = ["---"] * 2 + ["---:"] * (len(header) - 2)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))
