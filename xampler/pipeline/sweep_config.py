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

from xampler.config import Config, parse_config, read_yaml, set_value, split_override
from xampler.core.text import stable_hash
from xampler.errors import ConfigError
from xampler.pipeline.experiment import EncoderMethod, ExperimentConfig, recipe_faults, recipes_in_use

SHORT_NAMES = ("k", "recipe", "layer", "positives", "negatives", "source_lang")
LONGEST_SLUG = 60

Grid = dict[str, tuple[Any, ...]]  # name -> values; the names of one grid are crossed
Change = tuple[str, str, Any]  # where it was asked for, dotted path, value


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


class _AnyRecipes(ExperimentConfig):
    """Recipes of methods that no child runs are no fault; those of the others are checked for each child."""

    @model_validator(mode="after")
    def _check_recipes(self) -> Self:
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
    ad_hoc: bool  # the values to try are the command's, not a file's

    @property
    def title(self) -> str:
        """Name of its folder and run: the file's; where the command gives the values, these and the id."""
        if not self.ad_hoc:
            return self.config.name
        swept = dict.fromkeys(name for grid in self.config.over for name in grid)
        return f"{self.config.name}-{_shorten('-'.join(swept))}-{self.id[:8]}"

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
    changes = [("--set", *split_override(override)) for override in overrides]
    if "experiment" not in values:
        named, _ = _read_base(path, changes)
        if not over:
            raise ConfigError(f"{path} is an experiment: say what to sweep, as in --over k=1,5,10")
        values = {"name": named.name, "experiment": path.name}
    if over:
        values["over"] = [parse_over(over)]
    if isinstance(values.get("over"), dict):
        values["over"] = [values["over"]]
    config = parse_config(SweepConfig, values, str(path))
    own = [(f"{path}: set", key, value) for key, value in config.set.items()]
    base, base_values = _read_base(path.parent / config.experiment, [*own, *changes])
    unknown = sorted(set(config.methods) - set(base.methods))
    if unknown:
        raise ConfigError(f"{path}: methods: the experiment has no {unknown}; it has {list(base.methods)}")
    points = [
        _point(config, base, base_values, number, values)
        for number, grid in enumerate(config.over)
        for values in _cross(grid)
    ]
    _check_names(points)
    return Sweep(config, base, tuple(points), ad_hoc=bool(over))


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


def _read_base(file: Path, changes: Sequence[Change]) -> tuple[ExperimentConfig, dict[str, Any]]:
    """The experiment with the changes made, and its values; a fault is blamed on where it came from."""
    try:
        return _change(file, changes, str(file))
    except ConfigError:
        for number, (origin, path, _) in enumerate(changes):
            others = [*changes[:number], *changes[number + 1 :]]
            if _fits(file, others):
                _change(file, changes, f"{origin} {path}")
        raise


def _change(file: Path, changes: Sequence[Change], origin: str) -> tuple[ExperimentConfig, dict[str, Any]]:
    values = read_yaml(file)
    for asked, path, value in changes:
        _set_value(values, path, value, asked)
    return parse_config(_AnyRecipes, values, origin), values


def _set_value(values: dict[str, Any], path: str, value: Any, asked: str) -> None:  # noqa: ANN401
    try:
        set_value(values, path, value)
    except ConfigError as error:
        raise ConfigError(f"{asked} {error}") from error


def _fits(file: Path, changes: Sequence[Change]) -> bool:
    try:
        _change(file, changes, str(file))
    except ConfigError:
        return False
    return True


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
            one = [value] if path == "data.select.train" and swept != path else value
            _set_value(changed, path, one, "over")
    changed["name"] = name
    said = ", ".join(f"{swept}={value}" for swept, value in values.items())
    experiment = parse_config(_AnyRecipes, changed, f"over {said}")
    if not getattr(experiment.data.select, config.split):
        raise ConfigError(f"split: no language is selected under data.select.{config.split}")
    reference = experiment.model_copy(update={"name": base.name}) == base
    kept = {name: method for name, method in experiment.methods.items() if name in config.methods}
    child = experiment.model_copy(update={"methods": kept or experiment.methods})
    faults = recipe_faults(child, recipes_in_use(child))
    if faults:
        raise ConfigError(
            f"over {said}: {'; '.join(faults)}; or leave its methods out of those that a sweep file runs"
        )
    return Point(grid, values, child, reference)


def _cross(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _slug(values: dict[str, Any]) -> str:
    """``k-20``, as a part of an experiment's name."""
    text = "-".join(f"{name}-{json.dumps(value, ensure_ascii=False)}" for name, value in values.items())
    return _shorten(text)


def _shorten(text: str) -> str:
    """What may stand in a name and in a path of it."""
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
