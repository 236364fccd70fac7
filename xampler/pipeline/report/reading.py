"""The tables of an experiment to the figures of its report."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from pyspark.sql import Row
from pyspark.sql import functions as F

from xampler.core.language import Languages
from xampler.errors import DataError
from xampler.pipeline import STAGES
from xampler.pipeline.context import Context
from xampler.pipeline.evaluate import evaluate_part
from xampler.pipeline.plan import parts_of
from xampler.pipeline.promote import promote_part
from xampler.pipeline.report.data import (
    SPLIT,
    Difference,
    GroupRow,
    LanguageRow,
    MethodNote,
    RegisteredModel,
    ReportData,
    Score,
)
from xampler.pipeline.report.examples import read_examples
from xampler.pipeline.report.words import describe_method, describe_settings
from xampler.pipeline.sources import load_languages
from xampler.pipeline.stage import find_done, require_done
from xampler.tables.schema import (
    METHOD_DIFFERENCES,
    METRICS_BY_GROUP,
    METRICS_BY_LANGUAGE,
    Table,
)
from xampler.tracking.registry import CHALLENGER, CHAMPION, version_of


def read_report(
    context: Context, *, prompts_scored: int = 0, seconds: Mapping[str, float] | None = None
) -> ReportData:
    """The figures of the test split.

    Args:
        context: the experiment; it has been evaluated.
        prompts_scored: prompts that went through the language model just now.
        seconds: what each stage took just now; None if nothing was run.

    Raises:
        DataError: the experiment has not been evaluated with this config, or has no test texts.
    """
    require_done(context, [evaluate_part(context)])
    experiment, languages = context.experiment, load_languages()
    language_rows = _read_languages(context, languages)
    if not language_rows:
        raise DataError(
            f"experiment {context.name} has no labelled texts in a {SPLIT} split, so there is nothing to "
            "report; name languages under data.select.test"
        )
    return ReportData(
        experiment=context.name,
        task=context.task.name,
        pool_lang=experiment.pool_lang,
        pool_name=_display_name(languages, experiment.pool_lang),
        method=experiment.promote.method,
        base_method=experiment.evaluate.base_method,
        methods=[MethodNote(name, describe_method(experiment, name)) for name in experiment.methods],
        languages=language_rows,
        groups=_read_groups(context),
        differences=_read_differences(context),
        made_on=datetime.now(UTC).date(),
        examples=read_examples(context, languages),
        settings=describe_settings(context),
        model=_read_model(context),
        prompts_scored=prompts_scored,
        seconds=seconds or {},
        last_seconds=_last_seconds(context),
    )


def _read_metrics(context: Context, table: Table) -> list[Row]:
    methods = list(context.experiment.methods)
    rows = context.store.read(table, experiment=context.name, split=SPLIT).where(
        F.col("method").isin(methods)
    )
    return sorted(rows.collect(), key=lambda row: methods.index(row["method"]))


def _read_languages(context: Context, languages: Languages) -> list[LanguageRow]:
    by_lang: dict[str, list[Row]] = defaultdict(list)
    for row in _read_metrics(context, METRICS_BY_LANGUAGE):
        by_lang[row["lang"]].append(row)
    names = Counter(_display_name(languages, lang) for lang in by_lang)
    found = []
    for lang, rows in sorted(by_lang.items()):
        language, name = languages.resolve(lang), _display_name(languages, lang)
        if names[name] > 1:
            name = f"{name} ({language.script})"
        queries = rows[0]["queries"]
        found.append(LanguageRow(lang, name, language.family, language.script, queries, _scores(rows)))
    return found


def _read_groups(context: Context) -> list[GroupRow]:
    by_group: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in _read_metrics(context, METRICS_BY_GROUP):
        by_group[row["group_kind"], row["group_name"]].append(row)
    return [
        GroupRow(kind, name, rows[0]["languages"], rows[0]["queries"], _scores(rows))
        for (kind, name), rows in sorted(by_group.items())
    ]


def _read_differences(context: Context) -> list[Difference]:
    return [
        Difference(
            row["method"],
            row["base_method"],
            row["languages"],
            row["difference"],
            row["difference_low"],
            row["difference_high"],
            row["share_better"],
        )
        for row in _read_metrics(context, METHOD_DIFFERENCES)
    ]


def _scores(rows: Iterable[Row]) -> dict[str, Score]:
    return {
        row["method"]: Score(row["accuracy"], row["macro_f1"], row["accuracy_low"], row["accuracy_high"])
        for row in rows
    }


def _last_seconds(context: Context) -> dict[str, float]:
    """Wall time of each stage when it was last at work, parts of the present config only."""
    taken = context.markers.seconds()
    parts = {stage: [part.key for part in parts_of(context, stage)] for stage in STAGES}
    return {
        stage: sum(taken[key] for key in keys if key in taken)
        for stage, keys in parts.items()
        if any(key in taken for key in keys)
    }


def _read_model(context: Context) -> RegisteredModel | None:
    done = find_done(context, promote_part(context))
    if done is None:
        return None
    name, version = done.result["name"], done.result["version"]
    for alias in (CHAMPION, CHALLENGER):
        held = version_of(context.engines.tracker, name, alias)
        if held is not None and held.version == version:
            return RegisteredModel(name, version, alias, done.result["reason"])
    return RegisteredModel(name, version, note=done.result["reason"])


def _display_name(languages: Languages, lang: str) -> str:
    # ISO 639-3 tells a language from its macrolanguage by this; readers need not.
    return languages.resolve(lang).name.removesuffix(" (individual language)")
