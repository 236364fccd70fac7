"""Base class of all configs and the only way from YAML to Python.

Values are validated through JSON in strict mode: lists fit tuples, while ``"32"`` for an integer and a
misspelt key are refused with their dotted path.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from xampler.errors import ConfigError


class Config(BaseModel):
    """A frozen, strict config; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


GIVEN_LENGTH = 80  # characters of a wrong value that a message repeats
ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(cls: type[ConfigT], path: Path, overrides: Iterable[str] = ()) -> ConfigT:
    """Read ``path`` as a ``cls``; each override is ``dotted.path=value`` with a YAML value.

    Raises:
        ConfigError: the file is missing or no YAML mapping, or a key or value does not fit.
    """
    values = read_yaml(path)
    for override in overrides:
        set_value(values, *split_override(override))
    return parse_config(cls, values, str(path))


def parse_config(cls: type[ConfigT], values: dict[str, Any], origin: str) -> ConfigT:
    """Validate ``values`` as a ``cls``; ``origin`` names them in errors.

    Raises:
        ConfigError: a key or value does not fit; all faults are listed with their dotted path.
    """
    try:
        return cls.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise ConfigError(f"{origin}: " + "; ".join(_describe(fault) for fault in error.errors())) from error
    except (TypeError, ValueError) as error:  # of json: a date, an anchor within itself
        raise ConfigError(f"{origin}: only plain YAML values are allowed ({error})") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, unreadable, not YAML or not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the path of a YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values at the top")
    return values


def split_override(override: str) -> tuple[str, Any]:
    """Dotted path and value of ``dotted.path=value``.

    Raises:
        ConfigError: it is not of this form, or the value is not YAML.
    """
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ConfigError(f"--set {override!r}: expected dotted.path=value")
    try:
        return path, yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML") from error


def set_value(values: dict[str, Any], path: str, value: Any) -> None:  # noqa: ANN401 - any YAML value
    """Put ``value`` at the dotted ``path``, in place.

    Raises:
        ConfigError: the path leads through something that is no mapping.
    """
    *parents, last = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {parent!r} is not a mapping")
    values[last] = value


def _describe(fault: ErrorDetails) -> str:
    path = ".".join(str(part) for part in fault["loc"]) or "top level"
    if fault["type"] == "extra_forbidden":
        return f"{path}: unknown key (misspelt?)"
    if isinstance(fault["input"], dict):  # the message of a check over several keys says it all
        return f"{path}: {fault['msg']}"
    return f"{path}: {fault['msg']} (given: {repr(fault['input'])[:GIVEN_LENGTH]})"
