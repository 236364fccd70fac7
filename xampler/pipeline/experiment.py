"""The config of an experiment: what is done, on which data, with which models."""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from xampler.config import Config, load_config
from xampler.core.prompt import PromptConfig
from xampler.core.task import Task
from xampler.errors import ConfigError
from xampler.models.build import EncoderConfig, LanguageModelConfig
from xampler.pipeline.sources import Selection, Source
from xampler.training.recipe import SHARDED_WEIGHTS, DistillRecipe, EngineConfig, InfoNceRecipe, Recipe


class DataConfig(Config):
    """Where the texts come from and which of them are wanted."""

    source: Annotated[Source, Field(discriminator="format")]
    select: Selection
    max_rejected_share: float = Field(default=0.01, ge=0, le=1)  # ingestion fails above this


class MajorityMethod(Config):
    """Always the pool's most frequent label; no language model."""

    kind: Literal["majority"]


class ZeroShotMethod(Config):
    """The language model without demonstrations."""

    kind: Literal["zero-shot"]


class RandomMethod(Config):
    """Demonstrations drawn at random for each query; results are means over the seeds."""

    kind: Literal["random"]
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)


class Bm25Method(Config):
    """Demonstrations by BM25 over words."""

    kind: Literal["bm25"]


class EncoderMethod(Config):
    """Demonstrations by the cosine of an encoder as it is."""

    kind: Literal["encoder"]
    encoder: EncoderConfig


class TrainedMethod(Config):
    """Demonstrations by a retriever trained with one of the recipes under `train`."""

    kind: Literal["trained"]
    recipe: str


Method = Annotated[
    MajorityMethod | ZeroShotMethod | RandomMethod | Bm25Method | EncoderMethod | TrainedMethod,
    Field(discriminator="kind"),
]


class ProposeConfig(Config):
    """Which candidates are put to the language model for each training query."""

    by: Annotated[EncoderMethod | Bm25Method, Field(discriminator="kind")]
    k: int = Field(default=10, ge=1)  # the paper's best; more than 10 hurts


class MineConfig(Config):
    """How judgements become training pairs."""

    held_out_share: float = Field(default=0.1, gt=0, lt=1)  # of the queries
    seed: int = 0
    # How many of a query's candidates are kept in each role, the nearest first; None: all of them.
    positives: int | None = Field(default=None, ge=1)
    negatives: int | None = Field(default=None, ge=0)


class TrainConfig(Config):
    """The encoder to start from and the recipes to train it by."""

    encoder: EncoderConfig
    recipes: dict[str, Recipe] = Field(min_length=1)
    engine: EngineConfig = EngineConfig()
    ranks: int = Field(default=1, ge=1)  # processes; on a GPU cluster, GPUs
    on_driver: bool = True  # False: the ranks are Spark barrier tasks on the executors

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, recipe in self.recipes.items():
            if recipe.train_embeddings == "seen" and self.engine.zero_stage == SHARDED_WEIGHTS:
                raise ValueError(
                    f"recipes.{name}: train_embeddings: seen does not go with engine.zero_stage 3, where no "
                    "rank has all rows; use stage 2"
                )
        return self


class EvaluateConfig(Config):
    """Intervals and comparisons."""

    bootstrap_samples: int = Field(default=1000, ge=100)
    seed: int = 0
    base_method: str = "untrained"  # the others are compared with this one, query by query


class PromoteConfig(Config):
    """Registration of the trained retriever, with everything that labelling needs."""

    model_name: str = Field(min_length=1)
    method: str = "xampler"  # a trained method
    split: Literal["dev", "test"] = "dev"
    min_gain: float = 0.0  # the lower end of the paired interval must be above this


class ExperimentConfig(Config):
    """Everything that decides what the tables of an experiment hold."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    task: str  # a file under conf/tasks, or a path to one
    data: DataConfig
    pool_lang: str = "eng_Latn"
    language_model: LanguageModelConfig
    prompt: PromptConfig = PromptConfig()
    rows_per_commit: int = Field(default=5000, ge=1)  # prompts scored between two commits
    demonstrations: int = Field(default=10, ge=1)
    propose: ProposeConfig
    mine: MineConfig = MineConfig()
    train: TrainConfig
    methods: dict[str, Method] = Field(min_length=1)
    evaluate: EvaluateConfig = EvaluateConfig()
    promote: PromoteConfig

    @property
    def prompting_methods(self) -> dict[str, Method]:
        """The methods that put prompts to the language model: all but the majority."""
        return {name: m for name, m in self.methods.items() if not isinstance(m, MajorityMethod)}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, method in self.methods.items():
            if isinstance(method, TrainedMethod) and method.recipe not in self.train.recipes:
                known = sorted(self.train.recipes)
                raise ValueError(
                    f"methods.{name}: unknown recipe {method.recipe!r}; train.recipes has {known}"
                )
        if self.evaluate.base_method not in self.methods:
            raise ValueError(
                f"evaluate.base_method: unknown method {self.evaluate.base_method!r}; "
                f"methods are {sorted(self.methods)}"
            )
        if not getattr(self.data.select, self.promote.split):
            raise ValueError(
                f"promote.split: no language is selected for {self.promote.split}; name some under "
                f"data.select.{self.promote.split}"
            )
        if not isinstance(self.methods.get(self.promote.method), TrainedMethod):
            raise ValueError(f"promote.method: {self.promote.method!r} must name a method of kind trained")
        return self

    @model_validator(mode="after")
    def _check_recipes(self) -> Self:
        faults = recipe_faults(self, recipes_in_use(self))
        if faults:
            raise ValueError("; ".join(faults))
        return self


def recipes_in_use(experiment: ExperimentConfig) -> list[str]:
    """The recipes that a method names."""
    methods = experiment.methods.values()
    return list(dict.fromkeys(method.recipe for method in methods if isinstance(method, TrainedMethod)))


def recipe_faults(experiment: ExperimentConfig, recipes: Iterable[str]) -> list[str]:
    """Why these recipes cannot be trained, as far as the config alone shows it; empty if it shows nothing."""
    parts = experiment.train.ranks * experiment.train.engine.accumulation_steps
    kept = _candidates_kept(experiment)
    faults = []
    for name in recipes:
        recipe = experiment.train.recipes[name]
        needed, what = _candidates_needed(recipe)
        if needed > kept:
            faults.append(
                f"train.recipes.{name}: {what} needs {needed} candidates a query, and propose.k and mine "
                f"leave {kept}; raise these, or lower it"
            )
        if recipe.batch_size < parts:
            faults.append(
                f"train.recipes.{name}: {parts} ranks and micro-batches (train.ranks times "
                f"engine.accumulation_steps) cannot share a step of batch_size {recipe.batch_size} rows"
            )
    return faults


def _candidates_kept(experiment: ExperimentConfig) -> int:
    """The most that a query of the first round can have."""
    mine, k = experiment.mine, experiment.propose.k
    if mine.positives is None or mine.negatives is None:
        return k
    return min(k, mine.positives + mine.negatives)


def _candidates_needed(recipe: Recipe) -> tuple[int, str]:
    """The fewest that a query must have to give a row, and the setting that says so."""
    match recipe:
        case InfoNceRecipe():
            return 1 + recipe.hard_negatives, f"hard_negatives {recipe.hard_negatives}"
        case DistillRecipe():
            return recipe.candidates, f"candidates {recipe.candidates}"
        case _:
            return 1, ""


def conf_folder() -> Path:
    """The folder of the shipped configs."""
    return Path(str(files("xampler"))) / "conf"


def load_task(name_or_path: str) -> Task:
    """The task of this name under conf/tasks, or in this file.

    Raises:
        ConfigError: there is none, or it does not fit.
    """
    shipped = conf_folder() / "tasks" / f"{name_or_path}.yaml"
    if shipped.is_file():
        return load_config(Task, shipped)
    if Path(name_or_path).is_file():
        return load_config(Task, Path(name_or_path))
    known = sorted(path.stem for path in (conf_folder() / "tasks").glob("*.yaml"))
    raise ConfigError(f"task: {name_or_path!r} is neither one of {known} nor a file")
