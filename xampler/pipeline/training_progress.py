"""What the user sees of a training run: its steps, while its ranks write to the log, and why it broke off."""

import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

from xampler.pipeline.progress import Progress
from xampler.pipeline.session import output_to
from xampler.training.steps import forget_steps, read_steps

SECONDS_BETWEEN_LOOKS = 1.0
REASON_LENGTH = 300  # characters of somebody else's error that a message repeats
_STREAMING = "process_request_thread"  # in the names of the threads of Spark's server of messages
# What stands in the launcher's error before the last lines of its ranks.
_OUTPUT_FOLLOWS = "included below:"
_OWN_ERROR = re.compile(r"xampler\.errors\.\w+: (.*)")
_ERROR = re.compile(r"^(?:\[\w+\]: *|: )?((?:\w+\.)*\w*(?:Error|Exception): .+)$")
_SIGNAL = re.compile(r"(Signal \d+ \(SIG\w+\) received)")
_WRAPPERS = ("torch.distributed.elastic.", "org.", "java.", "py4j.", "pyspark.")  # say that, not why


class _Screen(io.TextIOWrapper):
    """The user's screen, for this process's own words.

    Ranks on executors stream theirs to a server here, which writes them to ``sys.stderr``.
    """

    def write(self, text: str) -> int:
        if _STREAMING in threading.current_thread().name:
            os.write(2, text.encode())  # the log, while output goes there
            return len(text)
        return super().write(text)


@contextmanager
def show_steps(progress: Progress, what: str, work: Path, log_file: Path) -> Iterator[None]:
    """Send the output of child processes to the log, and show how far the run in ``work`` has come."""
    over = threading.Event()
    forget_steps(work)
    # This process keeps writing to the screen; what it starts inherits the log.
    with (
        _Screen(os.fdopen(os.dup(2), "wb"), encoding="utf-8", line_buffering=True) as screen,
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


def why_it_broke_off(error: str, log_file: Path) -> str:
    """The telling line of a launcher's error, be it its own or that of a rank, in local mode or by Spark."""
    _, started, output = error.partition(_OUTPUT_FOLLOWS)
    reason = _telling(output or error)[:REASON_LENGTH]
    if started:
        return f"{reason}; the messages of the ranks are in {log_file}"
    return f"the ranks cannot be launched: {reason}"


def _telling(error: str) -> str:
    own = _OWN_ERROR.findall(error)
    if own:
        return str(own[-1])
    found = [match[1] for line in error.splitlines() if (match := _ERROR.search(line.rstrip()))]
    found.sort(key=lambda line: line.startswith(_WRAPPERS))  # stable: the first that says why, else any
    if found and not found[0].startswith(_WRAPPERS):
        return found[0]
    signal = _SIGNAL.search(error)
    return signal[1] if signal else (found or [" ".join(error.split())])[0]


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
