import io
import os
import socket
import socketserver
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from xampler.config import parse_config
from xampler.errors import TrainingError
from xampler.pipeline import training_progress
from xampler.pipeline.experiment import TrainConfig
from xampler.pipeline.progress import Progress
from xampler.pipeline.train import gpus_to_use
from xampler.pipeline.training_progress import show_steps, why_it_broke_off
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


def test_what_executors_stream_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Print(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            sys.stderr.write(self.request.recv(100).decode() + "\n")
            self.request.sendall(b"done")

    with show_steps(Progress(Console(file=io.StringIO())), "train", tmp_path, tmp_path / "log"):
        # As Spark's, which prints what comes in.
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Print) as server:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
            with socket.create_connection(("127.0.0.1", int(server.server_address[1]))) as rank:
                rank.sendall("كان on an executor".encode())
                assert rank.recv(100) == b"done"
            server.shutdown()
        sys.stderr.write("here\n")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "كان on an executor\n"
    assert capfd.readouterr().err == "here\n"


def test_ranks_that_end_before_the_first_step_show_nothing(tmp_path: Path) -> None:
    screen = io.StringIO()
    (tmp_path / "steps").write_text("7 10")  # of a run that was broken off
    with show_steps(Progress(Console(file=screen, force_terminal=True)), "train", tmp_path, tmp_path / "log"):
        assert read_steps(tmp_path) is None
    assert screen.getvalue() == ""


# As torchrun and Spark wrap what a rank says.
RANKS = """Command ['python', '-m', 'torch.distributed.run', 'train.py'] failed with return code 1. The \
last 100 lines of the task output are included below: [rank0]: Traceback (most recent call last):
[rank0]:   File "train.py", line 3, in <module>
[rank0]: {error}
E0801 12:00:00 torch/distributed/elastic/multiprocessing/api.py:900] failed (exitcode: 1) local_rank: 0
torch.distributed.elastic.multiprocessing.errors.ChildFailedError: {signal}
"""
BY_SPARK = """An error occurred while calling o90.collectToPython.
: org.apache.spark.SparkException: Job aborted due to stage failure: Could not recover from a failed barrier
org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "distributor.py", line 600, in wrapped_train_fn
RuntimeError: {cause}
"""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RANKS.format(error="xampler.errors.TrainingError: no pair; run it", signal=""), "no pair; run it"),
        (RANKS.format(error="torch.OutOfMemoryError: CUDA out of memory.", signal=""), "CUDA out of memory."),
        (
            RANKS.format(error="", signal="Signal 9 (SIGKILL) received by PID 7"),
            "Signal 9 (SIGKILL) received",
        ),
        (BY_SPARK.format(cause=RANKS.format(error="KeyError: 'rank'", signal="")), "KeyError: 'rank'"),
    ],
)
def test_what_a_rank_says_is_quoted(error: str, reason: str) -> None:
    said = why_it_broke_off(error, Path("x.log"))
    assert said.endswith(f"{reason}; the messages of the ranks are in x.log")
    assert "ChildFailed" not in said


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("GPUs were unable to be found on the driver.", "GPUs were unable to be found on the driver."),
        (
            "\n  This cluster has TLS encryption enabled;\n  however",
            "This cluster has TLS encryption enabled; how",
        ),
        (BY_SPARK.format(cause="Failed to find free port."), "RuntimeError: Failed to find free port."),
        (
            BY_SPARK.partition("org.apache.spark.api")[0],
            "org.apache.spark.SparkException: Job aborted due to",
        ),
    ],
)
def test_what_the_launcher_says_is_no_message_of_a_rank(error: str, reason: str) -> None:
    said = why_it_broke_off(error, Path("x.log"))
    assert said.startswith(f"the ranks cannot be launched: {reason}")
    assert "x.log" not in said


def test_whole_gpus_only() -> None:
    recipe = {"loss": "contrastive", "learning_rate": 0.1, "batch_size": 8, "steps": 1, "evaluate_every": 1}
    values = {"encoder": {"model": "mini"}, "recipes": {"a": recipe}, "ranks": 2}
    local = parse_config(TrainConfig, values, "test")
    spread = parse_config(TrainConfig, values | {"on_driver": False}, "test")
    assert [gpus_to_use("key", amount, local) for amount in (None, "", "0", "2", "4")] == [0, 0, 0, 2, 4]
    assert gpus_to_use("key", "1", spread) == 1
    with pytest.raises(TrainingError, match=r"key is 0\.5, and a rank needs whole GPUs"):
        gpus_to_use("key", "0.5", spread)
    with pytest.raises(TrainingError, match=r"train\.ranks is 2, and the driver has 1 by key"):
        gpus_to_use("key", "1", local)
