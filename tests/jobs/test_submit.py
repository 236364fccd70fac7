"""What a scheduler sees of a job that cannot do its work; test_chain.py submits them all in order."""

import subprocess
from collections.abc import Callable
from pathlib import Path

Submit = Callable[[str, Path], "subprocess.CompletedProcess[str]"]


def test_a_job_out_of_order_says_what_to_run(submit: Submit, experiment: Path) -> None:
    result = submit("mine_pairs", experiment)
    shown = result.stdout + result.stderr  # spark-submit passes the driver's stderr on to its own stdout
    assert result.returncode == 2
    assert "ingest has not been run with this config; run `xampler ingest" in shown
    assert "Traceback" not in shown
