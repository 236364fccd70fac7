"""The model registry: labellers as versions of a registered model, with aliases and tags."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array, Map

from xampler.errors import TrackingError
from xampler.tracking.run import Tracker

CHAMPION, CHALLENGER = "champion", "challenger"
FINGERPRINT_TAG = "xampler.fingerprint"
LOADER = "xampler.models.labeller"
ARTIFACT = "labeller"
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's codes for no such model or alias
LABELLER_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string")]),
    outputs=Schema(
        [
            ColSpec("string", "label"),
            ColSpec("double", "probability"),
            ColSpec(Map("double"), "probabilities"),
            ColSpec(Array("string"), "demonstrations"),
        ]
    ),
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    version: str
    tags: dict[str, str]


def register_labeller(
    tracker: Tracker, run_id: str, name: str, folder: Path, requirements: list[str], tags: Mapping[str, str]
) -> Version:
    """Log the labeller's folder in the run and register it as a new version of ``name``."""
    mlflow.set_tracking_uri(tracker.uri)
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name=ARTIFACT,
            loader_module=LOADER,
            data_path=str(folder),
            signature=LABELLER_SIGNATURE,
            input_example=None,  # an example would load the language model to log a model
            pip_requirements=requirements,
        )
    _ensure_registered(tracker, name)
    registered = tracker.client.create_model_version(
        name, source=logged.model_uri, run_id=run_id, tags=dict(tags), model_id=logged.model_id
    )
    return Version(name, str(registered.version), dict(tags))


def find_version(tracker: Tracker, name: str, fingerprint: str) -> Version | None:
    """The version with this fingerprint, if it was registered before."""
    for found in tracker.client.search_model_versions(f"name = '{name}'"):
        if found.tags.get(FINGERPRINT_TAG) == fingerprint:
            return Version(name, str(found.version), dict(found.tags))
    return None


def version_of(tracker: Tracker, name: str, alias: str) -> Version | None:
    """The version that the alias points to, None if there is none."""
    try:
        found = tracker.client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in UNKNOWN:
            return None
        raise TrackingError(f"the MLflow server {tracker.uri} does not answer: {error.message}") from error
    return Version(name, str(found.version), dict(found.tags))


def set_alias(tracker: Tracker, version: Version, alias: str) -> None:
    """Point the alias to the version."""
    tracker.client.set_registered_model_alias(version.name, alias, version.version)


def set_version_tags(tracker: Tracker, version: Version, tags: Mapping[str, str]) -> None:
    """Set tags on the version."""
    for key, value in tags.items():
        tracker.client.set_model_version_tag(version.name, version.version, key, value)


def download_labeller(tracker: Tracker, name: str, alias_or_version: str) -> tuple[Path, Version]:
    """A local copy of the labeller's folder, and the version that it is.

    Raises:
        TrackingError: there is no such model, alias or version.
    """
    version = _look_up(tracker, name, alias_or_version)
    mlflow.set_tracking_uri(tracker.uri)
    local = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version.version}"))
    data = mlflow.models.Model.load(str(local)).flavors["python_function"]["data"]
    return local / data, version


def _ensure_registered(tracker: Tracker, name: str) -> None:
    try:
        tracker.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise TrackingError(f"the model {name!r} cannot be registered: {error.message}") from error


def _look_up(tracker: Tracker, name: str, alias_or_version: str) -> Version:
    if not alias_or_version.isdigit():
        found = version_of(tracker, name, alias_or_version)
        if found is not None:
            return found
    else:
        try:
            entity = tracker.client.get_model_version(name, alias_or_version)
            return Version(name, str(entity.version), dict(entity.tags))
        except MlflowException as error:
            if error.error_code not in UNKNOWN:
                raise TrackingError(
                    f"the MLflow server {tracker.uri} does not answer: {error.message}"
                ) from error
    known = sorted(model.name for model in tracker.client.search_registered_models())
    raise TrackingError(
        f"the registry has no model {name!r} with alias or version {alias_or_version!r}; registered are "
        f"{known or 'none'}; run `xampler run` or `xampler promote` first"
    )
