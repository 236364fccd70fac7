"""The language model's work in Spark tasks: counted there, shown while they run, in figures at the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from pyspark import Accumulator, AccumulatorParam, SparkContext

from xampler.core.ports import ScoringStatistics
from xampler.pipeline.progress import Advance

COUNTS = ("prompts", "tokens", "tokens_computed", "tokens_shared", "tokens_padding")  # of ScoringStatistics
MODEL_SECONDS = "model_seconds"  # in calls of the model, of all tasks together
Counts = Accumulator[dict[str, float]]  # COUNTS and MODEL_SECONDS, by name
SECONDS_BETWEEN_LOOKS = 1.0


class AddUp(AccumulatorParam[dict[str, float]]):
    """Sums by name. A task that Spark repeats is counted again."""

    def zero(self, value: dict[str, float]) -> dict[str, float]:
        return dict.fromkeys(value, 0)

    def addInPlace(  # noqa: N802
        self, value1: dict[str, float], value2: dict[str, float]
    ) -> dict[str, float]:
        return {name: value1[name] + value2[name] for name in value1}


def start_counts(spark: SparkContext) -> Counts:
    """COUNTS and MODEL_SECONDS of all tasks together, each 0 so far."""
    return spark.accumulator(dict.fromkeys((*COUNTS, MODEL_SECONDS), 0.0), AddUp())


def add_counts(counts: Counts, statistics: ScoringStatistics, seconds: float) -> None:
    """Call it in a task, after each call of the model, which took so many seconds."""
    counts.add({**{name: getattr(statistics, name) for name in COUNTS}, MODEL_SECONDS: seconds})


class Shown:
    """What is done, on the screen: of a chunk that is being computed, what the tasks that ended did."""

    def __init__(self, advance: Advance, counts: Counts, total: int) -> None:
        self._advance, self._counts, self._total = advance, counts, total
        self._started = time.monotonic()
        self._rows = self._truncations = 0
        self._tokens = 0.0

    def figures(self) -> dict[str, float]:
        """The model's work since the start, in numbers."""
        return _shares(self._counts.value, time.monotonic() - self._started)

    def show(self, rows: int, truncations: int) -> None:
        """Say that so many rows are done, and what their prompts lost."""
        tokens = self._counts.value["tokens"]
        said = _say(self.figures(), truncations)
        self._advance(rows - self._rows, int(tokens - self._tokens), said)
        self._rows, self._tokens, self._truncations = rows, tokens, truncations

    @contextmanager
    def meanwhile(self) -> Iterator[None]:
        """Look once a second, while the block runs, whether tasks have ended."""
        ended = Event()
        thread = Thread(target=self._look_until, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _look_until(self, ended: Event) -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            rows = min(self._total, int(self._counts.value["prompts"]))  # a repeated task counts again
            if rows > self._rows:
                self.show(rows, self._truncations)


def _shares(counts: dict[str, float], seconds: float) -> dict[str, float]:
    """Counts of tokens, and what they say of the work."""
    return {
        **{name: counts[name] for name in (*COUNTS[1:], MODEL_SECONDS)},
        "tokens_per_s": counts["tokens"] / seconds,
        "prefix_hit_rate": counts["tokens_shared"] / max(1, counts["tokens"]),
        "padding_share": counts["tokens_padding"] / max(1, counts["tokens_computed"]),
    }


def _say(figures: dict[str, float], truncations: int) -> str:
    """What shows while the work goes on."""
    said = f"{figures['prefix_hit_rate']:.0%} shared, {figures['padding_share']:.0%} padding"
    return f"{said}, {truncations:,} truncations" if truncations else said
