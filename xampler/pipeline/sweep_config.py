"""Which values a sweep tries: names, paths and the experiments that come of them."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from xampler.config import Config, load_config, parse_config, read_yaml, set_value, split_override
from xampler.core.text import stable_hash
from xampler.errors import ConfigError
from xampler.pipeline.experiment import EncoderMethod, ExperimentConfig

SHORT_NAMES = ("k", "recipe", "layer", "positives", "negatives", "source_lang")
LONGEST_SLUG = 60

Grid = dict[str, tuple[Any, ...]]  # name -> values; the names of one grid are crossed


class SweepConfig(Config):
    """A sweep file: an experiment, and the values to try."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")  # children are <name>-k-20 and so on
    experiment: str  # path of the experiment's file, from the folder of the sweep's
    set: dict[str, Any] = {}  # dotted path -> value, the same in every child
    methods: tuple[str, ...] = ()  # those that the children run; none: all
    over: tuple[Grid, ...] = Field(min_length=1)  # grids; one alone may stand without a list
    split: Literal["dev", "test"] = "dev"  # what the table and the plot are of
    groups: tuple[Literal["family", "script", "coverage"], ...] = ()  # shown beside the mean

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(grid and all(grid.values()) for grid in self.over):
            raise ValueError("over: every grid needs a name, and every name a value")
        return self


@dataclass(frozen=True)
class Point:
    """One child of a sweep."""

    grid: int
    values: dict[str, Any]  # as swept
    experiment: ExperimentConfig
    reference: bool  # the base experiment's own values


@dataclass(frozen=True)
class Sweep:
    """A sweep whose every child has been checked."""

    config: SweepConfig
    base: ExperimentConfig
    points: tuple[Point, ...]

    @property
    def id(self) -> str:
        """Hash of all that decides the children."""
        return stable_hash(*(point.experiment.model_dump_json() for point in self.points))[:16]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that the children run."""
        return tuple(self.points[0].experiment.methods)


def load_sweep(path: Path, over: Sequence[str], overrides: Sequence[str]) -> Sweep:
    """The sweep of a sweep file, or of an experiment file and ``over`` (which replaces a sweep file's).

    Raises:
        ConfigError: a name or value does not fit; all children are checked.
    """
    values = read_yaml(path)
    if "experiment" not in values:
        named = load_config(ExperimentConfig, path, overrides)
        if not over:
            raise ConfigError(f"{path} is an experiment: say what to sweep, as in --over k=1,5,10")
        values = {"name": named.name, "experiment": path.name}
    if over:
        values["over"] = [parse_over(over)]
    if isinstance(values.get("over"), dict):
        values["over"] = [values["over"]]
    config = parse_config(SweepConfig, values, str(path))
    file = path.parent / config.experiment
    base_values = read_yaml(file)
    for key, value in config.set.items():
        set_value(base_values, key, value)
    for override in overrides:
        set_value(base_values, *split_override(override))
    base = parse_config(ExperimentConfig, base_values, str(file))
    unknown = sorted(set(config.methods) - set(base.methods))
    if unknown:
        raise ConfigError(f"{path}: methods: the experiment has no {unknown}; it has {list(base.methods)}")
    points = [
        _point(config, base, base_values, number, values)
        for number, grid in enumerate(config.over)
        for values in _cross(grid)
    ]
    _check_names(points)
    return Sweep(config, base, tuple(points))


def parse_over(words: Sequence[str]) -> dict[str, list[Any]]:
    """``k=1,5``, ``recipe=a,b`` (or both in one word, ``recipe=a,b,k=1,5``) as names and YAML values.

    Raises:
        ConfigError: a word is no name with values, or a name stands there twice.
    """
    found: dict[str, list[Any]] = {}
    for word in words:
        name = ""
        for piece in _split(word):
            start = re.match(r"([A-Za-z_][\w.-]*)=", piece)
            if start is not None:
                name = start[1]
                if name in found:
                    raise ConfigError(f"--over {word!r}: {name} is given twice")
            if not name:
                raise ConfigError(f"--over {word!r}: expected NAME=VALUE,VALUE,...")
            found.setdefault(name, []).append(_parse_value(word, piece[start.end() if start else 0 :]))
    return found


def paths_of(name: str, base: ExperimentConfig) -> tuple[str, ...]:
    """The config paths that a swept name stands for.

    Raises:
        ConfigError: there is no such name.
    """
    match name:
        case "k":
            return ("propose.k",)
        case "recipe":
            return (f"methods.{base.promote.method}.recipe",)
        case "layer":
            method = base.methods[base.evaluate.base_method]
            if not isinstance(method, EncoderMethod):
                raise ConfigError(
                    f"over: layer is an encoder's; evaluate.base_method, {base.evaluate.base_method}, is "
                    f"of kind {method.kind}"
                )
            return (f"methods.{base.evaluate.base_method}.encoder.layer",)
        case "positives" | "negatives":
            return (f"mine.{name}",)
        case "source_lang":
            return ("pool_lang", "data.select.train")
    if "." not in name and name not in ExperimentConfig.model_fields:
        raise ConfigError(
            f"over: unknown name {name!r}; short names are {', '.join(SHORT_NAMES)}, and any dotted path of "
            "the experiment's config will do"
        )
    return (name,)


def _point(
    config: SweepConfig,
    base: ExperimentConfig,
    base_values: dict[str, Any],
    grid: int,
    values: dict[str, Any],
) -> Point:
    name = f"{config.name}-{_slug(values)}"
    changed = json.loads(json.dumps(base_values))
    for swept, value in values.items():
        for path in paths_of(swept, base):
            set_value(changed, path, [value] if path == "data.select.train" and swept != path else value)
    changed["name"] = name
    said = ", ".join(f"{swept}={value}" for swept, value in values.items())
    experiment = parse_config(ExperimentConfig, changed, f"over {said}")
    if not getattr(experiment.data.select, config.split):
        raise ConfigError(f"split: no language is selected under data.select.{config.split}")
    reference = experiment.model_copy(update={"name": base.name}) == base
    kept = {name: method for name, method in experiment.methods.items() if name in config.methods}
    return Point(
        grid, values, experiment.model_copy(update={"methods": kept or experiment.methods}), reference
    )


def _cross(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _slug(values: dict[str, Any]) -> str:
    """``k-20``, as a part of an experiment's name."""
    text = "-".join(f"{name}-{json.dumps(value, ensure_ascii=False)}" for name, value in values.items())
    slug = re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")
    return slug if len(slug) <= LONGEST_SLUG else f"{slug[:LONGEST_SLUG]}-{stable_hash(text)[:8]}"


def _check_names(points: Sequence[Point]) -> None:
    names = [point.experiment.name for point in points]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"over: two children would be called {twice[0]}: a value is given twice")


def _split(word: str) -> list[str]:
    """At the commas that stand in no bracket."""
    pieces, depth = [""], 0
    for character in word:
        depth += (character in "[{") - (character in "]}")
        if character == "," and not depth:
            pieces.append("")
        else:
            pieces[-1] += character
    return pieces


def _parse_value(word: str, text: str) -> Any:  # noqa: ANN401 - any YAML value
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--over {word!r}: {text!r} is not valid YAML") from error
