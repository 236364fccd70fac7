import io
import logging
from types import SimpleNamespace

import pytest
from rich.console import Console

from xampler.pipeline import progress
from xampler.pipeline.progress import Progress


def test_lines_tell_rows_and_tokens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = iter([0.0, 0.0, 20.0, 20.0, 21.0, 40.0, 40.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    with (
        caplog.at_level(logging.INFO, "xampler"),
        Progress(Console(file=io.StringIO())).track("scores", 100) as advance,
    ):
        advance(40, 2000)
        advance(20, 1000)  # too soon for another line
        advance(40, 1000, "52% shared")
    assert caplog.messages == [
        "scores: 40 of 100 rows, 2 rows/s, 100 tokens/s",
        "scores: 100 of 100 rows, 2 rows/s, 100 tokens/s, 52% shared",
    ]


def test_bar_shows_rates_and_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    with Progress(Console(file=screen, force_terminal=True, width=120)).track("labels", 10) as advance:
        advance(10)
    assert "rows/s" in screen.getvalue()
    assert "tokens/s" not in screen.getvalue()
    with Progress(Console(), quiet=True).track("labels", 10) as advance:
        advance(10, 5)
    assert capsys.readouterr() == ("", "")
