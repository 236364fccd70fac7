"""What a sweep found: accuracies by value, method and group of languages, and differences along the sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xampler.core.metrics import Interval, bootstrap_group_mean, paired_difference
from xampler.errors import DataError
from xampler.pipeline.context import Context
from xampler.pipeline.evaluate import HEADLINE_GROUP, language_groups
from xampler.pipeline.outcomes import LanguageOutcome, by_language, read_outcomes
from xampler.pipeline.sources import load_languages
from xampler.pipeline.sweep_config import Point, Sweep

Outcomes = Mapping[str, Mapping[str, LanguageOutcome]]  # method -> language


@dataclass(frozen=True)
class Result:
    """One method of one child on one group of languages, none of which is a child's pool language."""

    grid: int
    child: str
    values: dict[str, Any]
    method: str
    group_kind: str
    group_name: str
    languages: int
    texts: int
    accuracy: Interval
    gain: Interval | None  # over the base method of the same child, paired
    change: Interval | None  # from the same method at the grid's reference value, paired


@dataclass(frozen=True)
class SweepResults:
    """Everything that the table, the page and the files show."""

    sweep: Sweep
    results: tuple[Result, ...]
    references: tuple[str, ...]  # name of the child that a grid's changes count from, by grid
    prompts_scored: int


def read_results(sweep: Sweep, contexts: Sequence[Context], prompts_scored: int) -> SweepResults:
    """Measure the children on the languages that all of them labelled and none has in its pool.

    Raises:
        DataError: there is no such language.
    """
    outcomes = {context.name: _outcomes(context, sweep.config.split) for context in contexts}
    pools = {point.experiment.pool_lang for point in sweep.points}
    common = set.intersection(
        *(set(found) for by_method in outcomes.values() for found in by_method.values())
    )
    if not common - pools:
        raise DataError(
            f"sweep {sweep.config.name}: no language of the {sweep.config.split} split is labelled by all "
            "children and in no child's pool; select more languages"
        )
    groups = {
        group: members
        for group, members in language_groups(sorted(common), pools, load_languages()).items()
        if group[0] in (HEADLINE_GROUP, *sweep.config.groups)
    }
    references = tuple(_reference(sweep, grid) for grid in range(len(sweep.config.over)))
    results = [
        _result(sweep, point, method, group, members, outcomes, references[point.grid])
        for point in sweep.points
        for method in outcomes[point.experiment.name]
        for group, members in sorted(groups.items(), key=lambda item: (item[0][0] != HEADLINE_GROUP, item[0]))
    ]
    return SweepResults(sweep, tuple(results), references, prompts_scored)


def _outcomes(context: Context, split: str) -> Outcomes:
    rows = read_outcomes(context)
    of_split = rows[rows["split"] == split]
    return {
        method: by_language(of_split[of_split["method"] == method], context.task.labels)
        for method in context.experiment.methods
    }


def _reference(sweep: Sweep, grid: int) -> str:
    """The child with the base experiment's own values; else the grid's first."""
    points = [point for point in sweep.points if point.grid == grid]
    own = [point for point in points if point.reference]
    return (own or points)[0].experiment.name


def _result(
    sweep: Sweep,
    point: Point,
    method: str,
    group: tuple[str, str],
    members: Sequence[str],
    outcomes: Mapping[str, Outcomes],
    reference: str,
) -> Result:
    child, config = point.experiment.name, point.experiment.evaluate
    here = [outcomes[child][method][lang] for lang in members]
    base = outcomes[child].get(config.base_method) if method != config.base_method else None
    before = outcomes[reference].get(method) if child != reference else None
    accuracy = bootstrap_group_mean(
        [outcome.correct_N for outcome in here], config.bootstrap_samples, config.seed
    )
    return Result(
        point.grid,
        child,
        point.values,
        method,
        *group,
        len(members),
        sum(len(outcome.query_ids) for outcome in here),
        accuracy,
        _paired(here, None if base is None else [base[lang] for lang in members], point),
        _paired(here, None if before is None else [before[lang] for lang in members], point),
    )


def _paired(
    here: Sequence[LanguageOutcome], there: Sequence[LanguageOutcome] | None, point: Point
) -> Interval | None:
    """``here`` less ``there``; None where there is nothing to compare with, or other texts."""
    if there is None or [o.query_ids for o in here] != [o.query_ids for o in there]:
        return None
    config = point.experiment.evaluate
    pairs = [[outcome.correct_N for outcome in outcomes] for outcomes in (here, there)]
    return paired_difference(pairs[0], pairs[1], config.bootstrap_samples, config.seed).difference
