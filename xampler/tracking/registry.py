"""The model registry: labellers as versions of a registered model, with aliases and tags."""

import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array, Map

from xampler.errors import TrackingError
from xampler.tracking.lineage import Lineage
from xampler.tracking.run import Tracker, no_answer

CHAMPION, CHALLENGER = "champion", "challenger"
FINGERPRINT_TAG = "xampler.fingerprint"
LOADER = "xampler.models.labeller"
ARTIFACT = "labeller"
UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's codes for no such model or alias
NAMES_SHOWN = 20  # models listed in one message
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
    aliases: tuple[str, ...] = ()
    registered_at: datetime | None = None  # UTC
    run_id: str | None = None


def register_labeller(
    tracker: Tracker,
    run_id: str,
    name: str,
    folder: Path,
    lineage: Lineage,
    fingerprint: str,
    example: Sequence[str],
) -> Version:
    """Log the labeller's folder in the run and register it as a new version of ``name``.

    ``example`` is kept beside the signature: texts as ``predict`` takes them.
    """
    mlflow.set_tracking_uri(tracker.uri)
    client = tracker.client
    experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment_id, name=ARTIFACT, source_run_id=run_id)
    # `log_model` would run the example, and load the language model to log what does not hold it.
    with tempfile.TemporaryDirectory(prefix="xampler-") as temporary:
        path = Path(temporary) / "model"
        mlflow.pyfunc.save_model(
            path,
            loader_module=LOADER,
            data_path=str(folder),
            mlflow_model=Model(model_uuid=logged.model_id, run_id=run_id),
            signature=LABELLER_SIGNATURE,
            input_example=list(example),
            pip_requirements=list(lineage.requirements),
            metadata=lineage.model_dump(mode="json"),
        )
        client.log_model_artifacts(logged.model_id, str(path))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    _ensure_registered(tracker, name)
    registered = client.create_model_version(
        name,
        source=logged.model_uri,
        run_id=run_id,
        tags=lineage.to_tags() | {FINGERPRINT_TAG: fingerprint},
        model_id=logged.model_id,
    )
    return _version(registered)


def find_version(tracker: Tracker, name: str, fingerprint: str) -> Version | None:
    """The version with this fingerprint, if it was registered before."""
    for found in tracker.client.search_model_versions(f"name = '{name}'"):
        if found.tags.get(FINGERPRINT_TAG) == fingerprint:
            return _version(found)
    return None


def version_of(tracker: Tracker, name: str, alias: str) -> Version | None:
    """The version that the alias points to, None if there is none."""
    try:
        found = tracker.client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in UNKNOWN:
            return None
        raise no_answer(tracker.uri, error) from error
    return _version(found)


def set_alias(tracker: Tracker, version: Version, alias: str) -> None:
    """Point the alias to the version."""
    tracker.client.set_registered_model_alias(version.name, alias, version.version)


def set_version_tags(tracker: Tracker, version: Version, tags: Mapping[str, str]) -> None:
    """Set tags on the version."""
    for key, value in tags.items():
        tracker.client.set_model_version_tag(version.name, version.version, key, value)


def find_reference(tracker: Tracker, reference: str) -> Version:
    """The version that ``NAME@ALIAS`` or ``NAME/VERSION`` names, as in ``models:/NAME@ALIAS``.

    Raises:
        TrackingError: it is no such reference, or there is no such version.
    """
    parts = re.fullmatch(r"(?:models:/)?([^@/]+)(?:@([^@/]+)|/(\d+))", reference)
    if parts is None:
        raise TrackingError(
            f"{reference!r} names no model version: give NAME@ALIAS or NAME/VERSION; {_known(tracker)}"
        )
    return _look_up(tracker, parts[1], parts[2] or parts[3])


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


def _version(entity: ModelVersion) -> Version:
    return Version(
        name=entity.name,
        version=str(entity.version),
        tags=dict(entity.tags),
        aliases=tuple(entity.aliases),
        registered_at=datetime.fromtimestamp(entity.creation_timestamp / 1000, UTC),
        run_id=entity.run_id,
    )


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
            return _version(tracker.client.get_model_version(name, alias_or_version))
        except MlflowException as error:
            if error.error_code not in UNKNOWN:
                raise no_answer(tracker.uri, error) from error
    raise TrackingError(
        f"the registry has no model {name!r} with alias or version {alias_or_version!r}; {_known(tracker)}"
    )


def _known(tracker: Tracker) -> str:
    """What the registry has, in a few words."""
    names = sorted(model.name for model in tracker.client.search_registered_models())
    if not names:
        return "it is empty: run `xampler run` or `xampler promote` first"
    described = []
    for name in names[:NAMES_SHOWN]:
        versions = tracker.client.search_model_versions(f"name = '{name}'")
        aliases = sorted(tracker.client.get_registered_model(name).aliases)
        numbers = sorted(int(found.version) for found in versions)
        described.append(f"{name} ({', '.join([*(f'@{alias}' for alias in aliases), *map(str, numbers)])})")
    more = len(names) - NAMES_SHOWN
    return f"registered are {', '.join(described)}" + (f" and {more} more" if more > 0 else "")
