"""What a run found, for readers: the figures behind the page, the summary and the terminal's table.

Shares, accuracies and probabilities are in [0, 1]; they become percent only where they are shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from statistics import fmean

SPLIT = "test"  # whose figures are reported


@dataclass(frozen=True)
class Score:
    """How well one method labels one language or group; no ends where no interval is known."""

    accuracy: float
    macro_f1: float
    low: float | None = None  # of the 95% interval of the accuracy
    high: float | None = None


@dataclass(frozen=True)
class MethodNote:
    """A method and one line on what it does."""

    name: str
    description: str


@dataclass(frozen=True)
class LanguageRow:
    """One language; ``scores`` by method."""

    lang: str
    name: str
    family: str
    script: str  # ISO 15924
    queries: int
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class GroupRow:
    """Means over a group of languages; ``scores`` by method."""

    kind: str  # as in the table metrics_by_group
    name: str
    languages: int
    queries: int
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class Difference:
    """Accuracy of ``method`` less that of ``base_method``, over the languages other than the pool's."""

    method: str
    base_method: str
    languages: int
    difference: float
    low: float | None
    high: float | None
    share_better: float  # of the languages


@dataclass(frozen=True)
class ShownDemonstration:
    """A demonstration as the language model saw it."""

    text: str
    label: str
    similarity: float


@dataclass(frozen=True)
class Example:
    """One query that ``ReportData.method`` labelled."""

    lang: str
    text: str
    gold: str
    predicted: str
    probabilities: Mapping[str, float]  # by label
    demonstrations: Sequence[ShownDemonstration]  # in the prompt's order, the last next to the query


@dataclass(frozen=True)
class RegisteredModel:
    """Where the trained retriever stands in the registry."""

    name: str
    version: str
    alias: str | None = None
    note: str = ""  # why it has this alias


@dataclass(frozen=True)
class ReportData:
    """Everything that the report, the summary and the terminal's table show."""

    experiment: str
    task: str
    pool_lang: str
    pool_name: str
    method: str  # the one under test: ``promote.method``
    base_method: str
    methods: Sequence[MethodNote]  # in the config's order
    languages: Sequence[LanguageRow]
    groups: Sequence[GroupRow]
    differences: Sequence[Difference]
    made_on: date
    examples: Sequence[Example] = ()
    settings: Sequence[tuple[str, str]] = ()  # what was run, as (name, value)
    model: RegisteredModel | None = None
    prompts_scored: int = 0  # in this run
    seconds: Mapping[str, float] = field(default_factory=dict)  # by stage, in this run
    last_seconds: Mapping[str, float] = field(default_factory=dict)  # by stage, when it was last at work

    @property
    def queries(self) -> int:
        """Test queries over all languages."""
        return sum(row.queries for row in self.languages)

    @property
    def method_names(self) -> list[str]:
        """In the config's order."""
        return [method.name for method in self.methods]

    def groups_of(self, kind: str) -> list[GroupRow]:
        """The groups of one kind, by name."""
        return sorted((row for row in self.groups if row.kind == kind), key=lambda row: row.name)

    def mean_accuracy(self, method: str, *, pool: bool = True) -> float | None:
        """Mean over the languages, with or without the pool's; None where the method labelled none."""
        return mean_accuracy([row for row in self.languages if pool or row.lang != self.pool_lang], method)


def mean_accuracy(rows: Sequence[LanguageRow], method: str) -> float | None:
    """Mean over the languages; None where the method labelled none."""
    values = [row.scores[method].accuracy for row in rows if method in row.scores]
    return fmean(values) if values else None
