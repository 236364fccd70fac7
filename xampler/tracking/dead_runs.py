"""Runs whose process was killed without a word: MLflow would call them running for ever."""

import os
import socket

import psutil
from mlflow.tracking import MlflowClient

PROCESS_TAG = "xampler.process"  # host and process id


def process_name() -> str:
    """Host and id of this process."""
    return f"{socket.gethostname()} {os.getpid()}"


def end_dead_runs(client: MlflowClient, experiment_id: str, name: str) -> None:
    """Mark as KILLED the runs of this name that a process of this host left open."""
    running = client.search_runs([experiment_id], f"attributes.status = 'RUNNING' and run_name = '{name}'")
    for run in running:
        host, _, process = run.data.tags.get(PROCESS_TAG, "").rpartition(" ")
        if host == socket.gethostname() and not psutil.pid_exists(int(process)):
            client.set_terminated(run.info.run_id, "KILLED")
