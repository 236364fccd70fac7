"""What a model version says of where it comes from, as tags of the version."""

import json
import logging
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.version import Version as PackageVersion

import xampler
from xampler.config import Config, parse_config
from xampler.errors import TrackingError

PREFIX = "xampler.lineage."
CLONE = Path(xampler.__file__).parents[1]

logger = logging.getLogger(__name__)


class SplitMetrics(Config):
    """How the version's method did on one split; shares and differences in [-1, 1], intervals at 95%."""

    languages: int  # all but the pool's, where there are others
    queries: int
    accuracy: tuple[float, float, float]  # mean over languages, low, high
    macro_f1: tuple[float, float, float]
    base_method: str | None = None
    gain: tuple[float, float, float] | None = None  # paired, over base_method
    share_better: float | None = None  # of the languages


class Lineage(Config):
    """Everything that made a version, each field one tag."""

    experiment: str
    method: str  # entry under `methods` that the figures are of
    task: str
    labels: tuple[str, ...]  # in the order of the log-likelihoods
    recipe: str
    recipe_config: dict[str, Any]
    encoder: str  # that training started from: hub id, folder or shipped name
    encoder_revision: str | None
    encoder_id: str
    encoder_licence: str
    language_model: str
    language_model_revision: str | None
    adapter: str | None
    adapter_revision: str | None
    language_model_licence: str
    scorer_id: str
    prompt_id: str
    pool_langs: tuple[str, ...]
    candidates: int
    metrics: dict[str, SplitMetrics]  # by split
    table_versions: dict[str, dict[str, int]]  # stage -> table -> Delta version that it read
    runs: dict[str, str]  # stage -> MLflow run
    code: str
    requirements: tuple[str, ...]

    def to_tags(self) -> dict[str, str]:
        """One tag a field, JSON but for plain strings."""
        plain = _plain_fields()
        return {
            PREFIX + name: value if name in plain else json.dumps(value, ensure_ascii=False)
            for name, value in self.model_dump(mode="json").items()
        }

    @classmethod
    def from_tags(cls, tags: Mapping[str, str], origin: str) -> "Lineage":
        """The lineage among a version's tags; ``origin`` names the version in errors.

        Raises:
            TrackingError: the version carries none.
        """
        found = {key.removeprefix(PREFIX): tag for key, tag in tags.items() if key.startswith(PREFIX)}
        if not found:
            raise TrackingError(
                f"{origin} carries no lineage: it was registered by something else than "
                "`xampler promote`, or by one before lineage was kept"
            )
        plain = _plain_fields()
        values = {name: tag if name in plain else json.loads(tag) for name, tag in found.items()}
        return parse_config(cls, values, origin)


def _plain_fields() -> set[str]:
    return {name for name, field in Lineage.model_fields.items() if field.annotation is str}


def code_state() -> str:
    """Git commit of the clone that this code runs from (``-dirty`` if changed), else its version."""
    if (CLONE / ".git").exists():
        describe = ["git", "-C", str(CLONE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            told = subprocess.run(describe, capture_output=True, text=True, check=True)
            return told.stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            logger.info("git does not tell the commit of %s", CLONE)
    return f"xampler {xampler.__version__}"


def pin_requirements(packages: Iterable[str]) -> tuple[str, ...]:
    """The packages at the versions that run here, without the local part (``+cpu``), which no index has.

    Raises:
        TrackingError: one is not installed here, so that nothing tells its version.
    """
    return tuple(f"{name}=={_installed(name)}" for name in packages)


def _installed(package: str) -> str:
    try:
        return PackageVersion(version(package)).public
    except PackageNotFoundError as error:
        raise TrackingError(
            f"the model needs {package}, which is not installed where it is registered, so that its version "
            f"cannot be pinned; pip install {package}"
        ) from error
