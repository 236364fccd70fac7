"""Evaluate: accuracy and macro-F1 per language, means over groups of languages, paired differences."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xampler.core.language import Languages
from xampler.core.metrics import bootstrap_group_mean, group_interval, paired_difference
from xampler.errors import DataError
from xampler.pipeline.context import Context
from xampler.pipeline.outcomes import LanguageOutcome, by_language, read_outcomes
from xampler.pipeline.predict import predict_part
from xampler.pipeline.sources import load_languages
from xampler.pipeline.stage import Outcome, Part
from xampler.tables.schema import (
    CANDIDATES,
    DEMONSTRATIONS,
    METHOD_DIFFERENCES,
    METRICS_BY_GROUP,
    METRICS_BY_LANGUAGE,
    PREDICTIONS,
    QUERIES,
    Table,
)
from xampler.tracking.run import Run

Row = dict[str, Any]
Outcomes = dict[str, LanguageOutcome]  # by language
HEADLINE_GROUP = "non_pool"


def evaluate_part(context: Context) -> Part:
    """The stage, for this experiment."""
    return Part(
        stage="evaluate",
        depends=lambda: {
            "config": context.experiment.evaluate.model_dump(mode="json"),
            "methods": list(context.experiment.methods),
        },
        run=lambda run: evaluate_predictions(context, run),
        before=(predict_part(context),),
        reads=(QUERIES, CANDIDATES, DEMONSTRATIONS, PREDICTIONS),
        writes=(METRICS_BY_LANGUAGE, METRICS_BY_GROUP, METHOD_DIFFERENCES),
    )


def evaluate_predictions(context: Context, run: Run) -> Outcome:
    """Replace the experiment's metrics.

    Raises:
        DataError: no query has a gold label.
    """
    outcomes = read_outcomes(context)
    if outcomes.empty:
        raise DataError("no query has a gold label: there is nothing to evaluate")
    languages = load_languages()
    by_language_rows, group_rows, difference_rows = [], [], []
    for split, of_split in outcomes.groupby("split", sort=True):
        by_method = {
            str(method): by_language(rows, context.task.labels) for method, rows in of_split.groupby("method")
        }
        owner = {"experiment": context.name, "split": str(split), "run_id": run.run_id}
        for method, found in by_method.items():
            resampled, named = _resample(context, found), owner | {"method": method}
            by_language_rows += [row | named for row in _language_rows(context, resampled)]
            group_rows += [row | named for row in _group_rows(context, resampled, languages)]
        difference_rows += [row | owner for row in _difference_rows(context, by_method)]
    _replace(context, METRICS_BY_LANGUAGE, by_language_rows)
    _replace(context, METRICS_BY_GROUP, group_rows)
    _replace(context, METHOD_DIFFERENCES, difference_rows)
    _log(run, context.experiment.promote.method, by_language_rows, group_rows)
    return Outcome(len(by_language_rows), metrics={})


@dataclass(frozen=True)
class _Resampled:
    """One method's outcomes with resamples of each language's macro-F1 [samples], made once."""

    found: Outcomes
    macro_f1: dict[str, NDArray[np.float64]]


def _resample(context: Context, found: Outcomes) -> _Resampled:
    config = context.experiment.evaluate
    return _Resampled(
        found,
        {
            lang: outcome.resample_macro_f1(config.bootstrap_samples, config.seed + number)
            for number, (lang, outcome) in enumerate(found.items())
        },
    )


def _language_rows(context: Context, method: _Resampled) -> list[Row]:
    return [{"lang": lang} | _figures(context, method, [lang]) for lang in method.found]


def _group_rows(context: Context, method: _Resampled, languages: Languages) -> list[Row]:
    return [
        {"group_kind": kind, "group_name": name, "languages": len(members)}
        | _figures(context, method, members)
        for (kind, name), members in sorted(_groups(context, method.found, languages).items())
    ]


def _figures(context: Context, method: _Resampled, members: list[str]) -> Row:
    """Accuracy and macro-F1 of a group of languages (one or more), with their intervals."""
    config = context.experiment.evaluate
    outcomes = [method.found[lang] for lang in members]
    accuracy = bootstrap_group_mean(
        [outcome.correct_N for outcome in outcomes], config.bootstrap_samples, config.seed
    )
    f1 = group_interval(
        [outcome.macro_f1 for outcome in outcomes],
        np.stack([method.macro_f1[lang] for lang in members]),
        np.random.default_rng(config.seed),
    )
    return {
        "queries": sum(len(outcome.correct_N) for outcome in outcomes),
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "accuracy_own_labels": float(np.mean([outcome.correct_own_N.mean() for outcome in outcomes])),
        "macro_f1": f1.value,
        "macro_f1_low": f1.low,
        "macro_f1_high": f1.high,
    }


def _groups(context: Context, found: Outcomes, languages: Languages) -> dict[tuple[str, str], list[str]]:
    """Members of every group; ``worst_decile`` is the method's own."""
    groups = language_groups(found, {context.experiment.pool_lang}, languages)
    others = groups.get((HEADLINE_GROUP, HEADLINE_GROUP))
    if others:
        worst = sorted(others, key=lambda lang: (found[lang].accuracy, lang))
        groups["worst_decile", "worst_decile"] = worst[: max(1, len(others) // 10)]
    return groups


def language_groups(
    langs: Iterable[str], pool_langs: Collection[str], languages: Languages
) -> dict[tuple[str, str], list[str]]:
    """(kind, name) of every group to its members; languages of the pool are in ``all`` alone."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    groups["all", "all"] = list(langs)
    others = [lang for lang in groups["all", "all"] if lang not in pool_langs]
    for lang in others:
        language = languages.resolve(lang)
        groups["family", language.family].append(lang)
        groups["script", language.script or "unknown"].append(lang)
        for name, covered in (("MaLA-500", language.in_mala500), ("XLM-R", language.in_xlmr)):
            groups["coverage", f"{name} {'covered' if covered else 'not covered'}"].append(lang)
    if others:
        groups[HEADLINE_GROUP, HEADLINE_GROUP] = others
    return dict(groups)


def _difference_rows(context: Context, by_method: dict[str, Outcomes]) -> list[Row]:
    config = context.experiment.evaluate
    base = by_method.get(config.base_method)
    if base is None:
        return []
    others = [lang for lang in base if lang != context.experiment.pool_lang] or list(base)
    rows = []
    for method, found in by_method.items():
        if method == config.base_method:
            continue
        difference = paired_difference(
            [found[lang].correct_N for lang in others],
            [base[lang].correct_N for lang in others],
            config.bootstrap_samples,
            config.seed,
        )
        rows.append(
            {
                "method": method,
                "base_method": config.base_method,
                "languages": len(others),
                "difference": difference.difference.value,
                "difference_low": difference.difference.low,
                "difference_high": difference.difference.high,
                "share_better": difference.share_better,
            }
        )
    return rows


def _replace(context: Context, table: Table, rows: list[Row]) -> None:
    frame = context.spark.createDataFrame(
        [tuple(row[name] for name in table.column_names) for row in rows], table.spark_schema()
    )
    context.store.replace(table, frame, experiment=context.name)


def _log(run: Run, method: str, by_language_rows: list[Row], group_rows: list[Row]) -> None:
    """One metric a language for the promoted method, the means of groups; the rest is a table."""
    headline = {
        f"eval/accuracy/{row['lang']}": row["accuracy"]
        for row in by_language_rows
        if row["split"] == "test" and row["method"] == method
    }
    means = {
        f"eval/accuracy_{row['group_kind']}/{row['split']}/{row['method']}/{row['group_name']}": row[
            "accuracy"
        ]
        for row in group_rows
        if row["method"] == method or row["group_kind"] == HEADLINE_GROUP
    }
    run.log_metrics(headline | means)
    run.log_text(pd.DataFrame(by_language_rows).to_csv(index=False), "metrics_by_language.csv")
    run.log_text(pd.DataFrame(group_rows).to_csv(index=False), "metrics_by_group.csv")
