"""Where a trained method comes from, gathered from its tables, runs and models."""

from pyspark.sql import Row
from pyspark.sql import functions as F

from xampler.models.build import (
    LanguageModelConfig,
    encoder_id,
    encoder_licence,
    language_model_contents,
    language_model_licence,
    scorer_id,
)
from xampler.models.source import model_content
from xampler.pipeline.context import Context
from xampler.pipeline.experiment import TrainedMethod
from xampler.pipeline.prompts import prompt_keys
from xampler.pipeline.stage import Part, find_done
from xampler.tables.schema import CANDIDATES, METHOD_DIFFERENCES, METRICS_BY_GROUP, TABLES
from xampler.tracking.lineage import Lineage, SplitMetrics, code_state, pin_requirements

ENCODER = "encoder"  # role, by which one of the mini models is meant
READ = "version_in."  # parameter of a run: the Delta version of a table that its stage read
# What a labeller needs to be loaded and to label.
PACKAGES = (
    "xampler",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)
ADAPTER_PACKAGES = ("peft",)
PLACEMENT_PACKAGES = ("accelerate",)
QUANTIZATION_PACKAGES = ("bitsandbytes",)


def gather_lineage(context: Context, name: str, parts: tuple[Part, ...]) -> Lineage:
    """The lineage of the trained method ``name``; ``parts`` and what stands before them made it."""
    experiment = context.experiment
    method = experiment.methods[name]
    assert isinstance(method, TrainedMethod)  # checked by ExperimentConfig
    encoder, model = experiment.train.encoder, experiment.language_model
    pool = context.store.read(CANDIDATES, experiment=context.name).groupBy("lang").count().collect()
    runs = _runs(context, parts, {"", name, method.recipe})
    trained = model_content(encoder.model, encoder.revision, ENCODER)
    base, adapter = language_model_contents(model)
    return Lineage(
        experiment=context.name,
        method=name,
        task=context.task.name,
        labels=context.task.labels,
        recipe=method.recipe,
        recipe_config=experiment.train.recipes[method.recipe].model_dump(mode="json"),
        encoder=encoder.model,
        encoder_revision=resolved_revision(trained, encoder.model, encoder.revision),
        encoder_id=encoder_id(encoder),
        encoder_licence=encoder_licence(encoder),
        language_model=model.model,
        language_model_revision=resolved_revision(base, model.model, model.revision),
        adapter=model.adapter,
        adapter_revision=resolved_revision(adapter, model.adapter, model.adapter_revision),
        language_model_licence=language_model_licence(model),
        scorer_id=scorer_id(model),
        prompt_id=prompt_keys(context)["prompt_id"],
        pool_langs=tuple(sorted(row["lang"] for row in pool)),
        candidates=sum(row["count"] for row in pool),
        metrics=_metrics(context, name),
        table_versions={stage: _versions_read(context, run_id) for stage, run_id in runs.items()},
        runs=runs,
        code=code_state(),
        requirements=pin_requirements(packages_of(model)),
    )


def resolved_revision(content: str, model: str | None, revision: str | None) -> str | None:
    """The commit that a hub model was loaded at, which ``content`` names; for a folder the config's word."""
    named, _, commit = content.rpartition("@")
    return commit if named == model else revision


def packages_of(model: LanguageModelConfig) -> tuple[str, ...]:
    """Names of the packages that a labeller with this language model needs to be loaded and to label."""
    return (
        *PACKAGES,
        *(ADAPTER_PACKAGES if model.adapter else ()),
        *(PLACEMENT_PACKAGES if model.device_map or model.quantization else ()),
        *(QUANTIZATION_PACKAGES if model.quantization else ()),
    )


def _runs(context: Context, parts: tuple[Part, ...], names: set[str]) -> dict[str, str]:
    """MLflow run of each part of these names, and of everything before it, by the part's key."""
    runs: dict[str, str] = {}
    for part in parts:
        runs |= _runs(context, part.before, names)
        done = find_done(context, part) if part.name in names else None
        if done is not None:
            runs[part.key] = done.run_id
    return runs


def _versions_read(context: Context, run_id: str) -> dict[str, int]:
    params = context.engines.tracker.params_of(run_id)
    found = {table.name: params.get(READ + table.name, "") for table in TABLES}
    return {name: int(version) for name, version in found.items() if version.isdigit()}


def _metrics(context: Context, method: str) -> dict[str, SplitMetrics]:
    groups = context.store.read(METRICS_BY_GROUP, experiment=context.name, method=method)
    gains = context.store.read(METHOD_DIFFERENCES, experiment=context.name, method=method)
    by_split = {row["split"]: row for row in gains.collect()}
    # `non_pool` stands behind `all`, and takes its place where there are other languages.
    means = groups.where(F.col("group_kind").isin("all", "non_pool")).orderBy("group_kind").collect()
    return {row["split"]: _split_metrics(row, by_split.get(row["split"])) for row in means}


def _split_metrics(mean: Row, gain: Row | None) -> SplitMetrics:
    accuracy, macro_f1 = (
        (mean[name], mean[f"{name}_low"], mean[f"{name}_high"]) for name in ("accuracy", "macro_f1")
    )
    compared = {}
    if gain is not None:
        compared = {
            "base_method": gain["base_method"],
            "gain": (gain["difference"], gain["difference_low"], gain["difference_high"]),
            "share_better": gain["share_better"],
        }
    return SplitMetrics(
        languages=mean["languages"],
        queries=mean["queries"],
        accuracy=accuracy,
        macro_f1=macro_f1,
        **compared,
    )
