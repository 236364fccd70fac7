"""`xampler model compare`: two versions on the texts that both have labelled, by group of languages."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from rich.table import Table as RichTable

from xampler.core.metrics import PairedDifference, paired_difference
from xampler.errors import DataError
from xampler.pipeline.context import Engines
from xampler.pipeline.evaluate import language_groups
from xampler.pipeline.model_show import percent
from xampler.pipeline.outcomes import LanguageOutcome, by_language, gold_labels, join_outcomes
from xampler.pipeline.sources import load_languages
from xampler.tables.schema import DEMONSTRATIONS, PREDICTIONS, QUERIES
from xampler.tables.store import TableStore
from xampler.tracking.lineage import Lineage
from xampler.tracking.registry import Version, find_reference

SAMPLES, SEED = 1000, 0
EVALUATE = "evaluate"  # the stage whose table versions say what a version's method had predicted


@dataclass(frozen=True)
class GroupDifference:
    """First version less second, on one group of languages."""

    kind: str  # all, non_pool, coverage, family, script
    name: str
    languages: int
    texts: int
    difference: PairedDifference


def compare_models(engines: Engines, first: str, second: str, split: str) -> list[GroupDifference]:
    """Paired differences in accuracy of ``first`` less ``second``, references as NAME@ALIAS or NAME/VERSION.

    The stored predictions of the two versions' methods are joined by query: of each experiment's tables
    as they were when the version was evaluated.

    Raises:
        TrackingError: there is no such version, or it carries no lineage.
        DataError: the two have no labelled text of the split in common.
        StoreError: the tables as they were then are not kept any more.
    """
    versions = [find_reference(engines.tracker, reference) for reference in (first, second)]
    lineages = [Lineage.from_tags(version.tags, _named(version)) for version in versions]
    outcomes = [_outcomes(engines.store, lineage, split) for lineage in lineages]
    common = outcomes[0][["query_id"]].merge(outcomes[1][["query_id"]], on="query_id")["query_id"].unique()
    if not len(common):
        raise DataError(
            f"{_named(versions[0])} ({lineages[0].experiment}) and {_named(versions[1])} "
            f"({lineages[1].experiment}) have labelled no {split} text in common"
        )
    new, old = (
        by_language(rows[rows["query_id"].isin(common)], lineage.labels)
        for rows, lineage in zip(outcomes, lineages, strict=True)
    )
    pool_langs = {lang for lineage in lineages for lang in lineage.pool_langs}
    groups = language_groups(new, pool_langs, load_languages())
    return [_difference(group, members, new, old) for group, members in sorted(groups.items())]


def compare_table(first: str, second: str, split: str, found: list[GroupDifference]) -> RichTable:
    """The differences in percentage points, for the terminal."""
    title = f"{first} less {second}, accuracy on {split} in points, 95% intervals"
    table = RichTable(title=title, title_justify="left")
    table.add_column("group")
    for column in ("languages", "texts", "difference", "better in"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found:
        name = row.name if row.kind in (row.name, "coverage") else f"{row.kind} {row.name}"
        interval = row.difference.difference
        points = percent((interval.value, interval.low, interval.high), signed=True)
        better = f"{row.difference.share_better:.0%}"
        table.add_row(name, str(row.languages), str(row.texts), points, better)
    return table


def _outcomes(store: TableStore, lineage: Lineage, split: str) -> pd.DataFrame:
    read = lineage.table_versions.get(EVALUATE, {})
    if not {DEMONSTRATIONS.name, QUERIES.name} <= set(read):
        raise DataError(
            f"experiment {lineage.experiment}: the MLflow run that evaluated it is gone, and with it which "
            "tables it read; promote the model again"
        )
    shown, queries = (
        store.read_version(table, read[table.name], experiment=lineage.experiment, **where)
        for table, where in ((DEMONSTRATIONS, {"method": lineage.method}), (QUERIES, {}))
    )
    predictions = store.read(PREDICTIONS, scorer_id=lineage.scorer_id, prompt_id=lineage.prompt_id)
    of_split = shown.where(shown["split"] == split)
    return join_outcomes(of_split, predictions, gold_labels(queries), lineage.labels).toPandas()


def _difference(
    group: tuple[str, str],
    members: list[str],
    new: Mapping[str, LanguageOutcome],
    old: Mapping[str, LanguageOutcome],
) -> GroupDifference:
    pairs = [(new[lang].correct_N, old[lang].correct_N) for lang in members]
    difference = paired_difference([pair[0] for pair in pairs], [pair[1] for pair in pairs], SAMPLES, SEED)
    texts = sum(len(pair[0]) for pair in pairs)
    return GroupDifference(*group, len(members), texts, difference)


def _named(version: Version) -> str:
    return f"{version.name} version {version.version}"
