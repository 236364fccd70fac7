"""MLflow runs: one per run of a stage, with its config, table versions, rows and seconds."""

import copy
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlparse

import mlflow
import yaml
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import SQLAlchemyError

from xampler.config import Config
from xampler.errors import TrackingError
from xampler.tracking.dead_runs import PROCESS_TAG, end_dead_runs, process_name

METRIC_BATCH = 1000  # MLflow's limit per call
PARAM_LENGTH = 500

logger = logging.getLogger(__name__)


class TrackingConfig(Config):
    """The MLflow server, or an SQLite file in embedded mode."""

    uri: str = "sqlite:///mlflow.db"
    artifacts: str | None = "mlruns"  # folder or store for artifacts; None leaves it to the server


class Run:
    """One MLflow run that is open."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log many metrics at once; characters that MLflow refuses in names become underscores."""
        timestamp = int(mlflow.utils.time.get_current_time_millis())
        metrics = [Metric(_metric_name(key), float(value), timestamp, step) for key, value in values.items()]
        for start in range(0, len(metrics), METRIC_BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + METRIC_BATCH])

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log parameters, long values cut."""
        params = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in values.items()]
        self._client.log_batch(self.run_id, params=params)

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        for key, value in values.items():
            self._client.set_tag(self.run_id, key, value)

    def log_yaml(self, values: Mapping[str, Any], name: str) -> None:
        """Keep a mapping as a YAML artifact."""
        self._client.log_text(
            self.run_id, yaml.safe_dump(dict(values), allow_unicode=True, sort_keys=False), name
        )

    def log_text(self, text: str, name: str) -> None:
        """Keep a text as an artifact."""
        self._client.log_text(self.run_id, text, name)

    def log_folder(self, folder: Path, name: str) -> None:
        """Keep a folder as an artifact."""
        self._client.log_artifacts(self.run_id, str(folder), name)


class Tracker:
    """The tracking server of one environment.

    Raises:
        TrackingError: the server cannot be reached.
    """

    def __init__(self, config: TrackingConfig) -> None:
        _quieten()
        self.uri = _absolute_sqlite(config.uri)
        self._artifacts = config.artifacts
        self._parent: tuple[str, str] | None = None  # experiment and run that new runs belong to
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        self.client = _reach(self.uri)

    @contextmanager
    def start_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> Iterator[Run]:
        """An open run; it ends FINISHED, FAILED when an error passes through, KILLED on an interrupt.

        One whose process died without a word is marked KILLED when a run of its name starts next.
        """
        experiment_id, tags = self._place(experiment, tags)
        end_dead_runs(self.client, experiment_id, name)
        run = self.client.create_run(experiment_id, run_name=name, tags={**tags, PROCESS_TAG: process_name()})
        with self._open(run.info.run_id) as opened:
            yield opened

    @contextmanager
    def resume_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> Iterator[Run]:
        """As :meth:`start_run`, but goes on with the run that has these tags already, if there is one."""
        experiment_id, tags = self._place(experiment, tags)
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        known = list(self.client.search_runs([experiment_id], wanted, max_results=1))
        [run] = known or [self.client.create_run(experiment_id, run_name=name, tags=tags)]
        self.client.update_run(run.info.run_id, status="RUNNING")
        with self._open(run.info.run_id) as opened:
            yield opened

    def beneath(self, experiment: str, run: Run) -> Self:
        """The same server, with every new run as a child of ``run``, in the experiment that holds it."""
        nested = copy.copy(self)
        nested._parent = (experiment, run.run_id)
        return nested

    def _place(self, experiment: str, tags: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """Id of the experiment that a new run belongs into, and its tags."""
        if self._parent is None:
            return self._experiment_id(experiment), dict(tags)
        home, parent = self._parent
        return self._experiment_id(home), {**tags, MLFLOW_PARENT_RUN_ID: parent}

    @contextmanager
    def _open(self, run_id: str) -> Iterator[Run]:
        status = "FINISHED"
        try:
            yield Run(self.client, run_id)
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except BaseException:
            status = "FAILED"
            raise
        finally:
            self.client.set_terminated(run_id, status)

    def params_of(self, run_id: str) -> dict[str, str]:
        """The parameters of a run; none where the server does not know the run."""
        try:
            return dict(self.client.get_run(run_id).data.params)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise no_answer(self.uri, error) from error
            return {}

    def _experiment_id(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if self._artifacts is not None:
            location = self._artifacts
            if "://" not in location:
                location = (Path(location).resolve() / name).as_uri()
        try:
            return str(self.client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise TrackingError(f"MLflow cannot make the experiment {name!r}: {error.message}") from error
            return self._experiment_id(name)  # another run was quicker


def no_answer(uri: str, error: MlflowException) -> TrackingError:
    """What to raise where the server fails in a way that nothing here expects."""
    return TrackingError(f"the MLflow server {uri} does not answer: {error.message}")


def _reach(uri: str) -> MlflowClient:
    remote = urlparse(uri).scheme in ("http", "https")
    saved = {
        key: os.environ.get(key) for key in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")
    }
    if remote:  # the first call tells: minutes of retries would hide a wrong address
        os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    try:
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise TrackingError(
            f"the MLflow server {uri} cannot be reached; start it or set tracking.uri in the environment file"
        ) from error
    finally:
        for key, value in saved.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
    return client


def _absolute_sqlite(uri: str) -> str:
    """Workers and training ranks run elsewhere: make the file's path absolute."""
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith(prefix + "/"):
        return prefix + str(Path(uri.removeprefix(prefix)).resolve())
    return uri


def _quieten() -> None:
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _metric_name(name: str) -> str:
    return re.sub(r"[^\w\-./ ]", "_", name)
