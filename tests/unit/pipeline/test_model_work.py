from threading import Event

import pytest
from pyspark import Accumulator

from xampler.core.ports import ScoringStatistics
from xampler.pipeline import model_work
from xampler.pipeline.model_work import COUNTS, MODEL_SECONDS, AddUp, Counts, Shown, add_counts

CALL = ScoringStatistics(prompts=40, tokens=400, tokens_computed=320, tokens_shared=100, tokens_padding=16)


class Screen:
    """Keeps what it is told, and says when."""

    def __init__(self) -> None:
        self.said: list[tuple[int, int, str]] = []
        self.told = Event()

    def __call__(self, rows: int, tokens: int = 0, more: str = "") -> None:
        self.said.append((rows, tokens, more))
        self.told.set()


@pytest.fixture
def counts() -> Counts:
    """A driver's accumulator, to which no task belongs."""
    return Accumulator(-1, dict.fromkeys((*COUNTS, MODEL_SECONDS), 0.0), AddUp())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_work, "SECONDS_BETWEEN_LOOKS", 0.005)


def test_tasks_that_end_show_before_their_chunk_does(counts: Counts) -> None:
    screen = Screen()
    shown = Shown(screen, counts, total=100)
    with shown.meanwhile():
        add_counts(counts, CALL, 2.0)
        assert screen.told.wait(30)
    shown.show(42, truncations=3)
    assert screen.said == [
        (40, 400, "25% shared, 5% padding"),
        (2, 0, "25% shared, 5% padding, 3 truncations"),
    ]


def test_a_repeated_task_shows_no_more_rows_than_there_are(counts: Counts) -> None:
    screen = Screen()
    add_counts(counts, CALL, 2.0)
    add_counts(counts, CALL, 2.0)
    with Shown(screen, counts, total=50).meanwhile():
        assert screen.told.wait(30)
    assert [rows for rows, _, _ in screen.said] == [50]


def test_figures_add_up_the_calls_of_the_model(counts: Counts) -> None:
    add_counts(counts, CALL, 2.0)
    add_counts(counts, CALL, 0.5)
    figures = Shown(Screen(), counts, total=80).figures()
    assert figures.pop("tokens_per_s") > 0
    assert figures == {
        "tokens": 800,
        "tokens_computed": 640,
        "tokens_shared": 200,
        "tokens_padding": 32,
        "model_seconds": 2.5,
        "prefix_hit_rate": 0.25,
        "padding_share": 0.05,
    }
