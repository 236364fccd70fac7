"""The report as one HTML page that needs nothing else: no network, no script to be readable."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template

import xampler
from xampler.pipeline.report.data import Difference, Example, GroupRow, LanguageRow, ReportData, Score

GROUP_TITLES = {"family": "By family", "script": "By script", "coverage": "By coverage of the models"}
OVERALL = ("non_pool", "all", "worst_decile")
TICKS = (0.25, 0.2, 0.1, 0.05)  # distances of the axis' marks, the widest that gives four of them


@dataclass(frozen=True)
class Bar:
    """One method in the headline."""

    method: str
    score: Score
    difference: Difference | None  # to the base method


@dataclass(frozen=True)
class Axis:
    """The common scale of all bars, from 0."""

    end: float
    marks: tuple[float, ...]


def render_report(data: ReportData) -> str:
    """The page, UTF-8 declared."""
    bars = headline_bars(data)
    every = [*(row.scores for row in data.languages), *(row.scores for row in data.groups)]
    return _template().render(
        data=data,
        version=xampler.__version__,
        bars=bars,
        headline_axis=fit_axis(bar.score for bar in bars),
        axis=fit_axis(score for scores in every for score in scores.values()),
        headline=headline_group(data),
        overall=[(row, _overall_name(row, data)) for kind in OVERALL for row in data.groups_of(kind)],
        group_titles=GROUP_TITLES,
        columns=method_columns(data),
        rows=sorted(data.languages, key=lambda row: (-_accuracy(row, data.method), row.name)),
        names={row.lang: row for row in data.languages},
    )


def headline_group(data: ReportData) -> GroupRow | None:
    """All languages but the pool's; all where there are no others."""
    found = data.groups_of("non_pool") or data.groups_of("all")
    return found[0] if found else None


def headline_bars(data: ReportData) -> list[Bar]:
    """The methods of the headline, in the config's order."""
    group = headline_group(data)
    if group is None:
        return []
    differences = {difference.method: difference for difference in data.differences}
    return [
        Bar(name, group.scores[name], differences.get(name))
        for name in data.method_names
        if name in group.scores
    ]


def method_columns(data: ReportData) -> list[str]:
    """Methods in the tables' order: the one under test, its base, the others; a phone shows the first."""
    first = [name for name in (data.method, data.base_method) if name in data.method_names]
    return list(dict.fromkeys([*first, *data.method_names]))


def fit_axis(scores: Iterable[Score]) -> Axis:
    """An axis that ends at a multiple of 10% above every value and interval."""
    top = max((value for s in scores for value in (s.accuracy, s.macro_f1, s.high or 0.0)), default=1.0)
    end = min(1.0, max(0.1, math.ceil(round(top * 10, 6)) / 10))
    step = next((step for step in TICKS if end / step >= 4), TICKS[-1])
    return Axis(end, tuple(round(step * i, 4) for i in range(1, int(end / step + 1e-9) + 1)))


def count_labels(example: Example) -> list[tuple[str, int]]:
    """How often each label was shown, the most frequent first."""
    counts = Counter(shown.label for shown in example.demonstrations)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": _percent,
        "probability": _probability,
        "points": _points,
        "thousands": "{:,}".format,
        "duration": _duration,
        "language_tag": _language_tag,
        "count_labels": count_labels,
        "likeliest": _likeliest,
    }
    source = files("xampler.pipeline.report").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(source)


def _percent(share: float, digits: int = 1) -> str:
    return f"{share * 100:.{digits}f}"


def _probability(share: float) -> str:
    """Neither 0 nor 1 is ever certain: a language model gives every label something."""
    if share < 0.001:
        return "<0.1%"
    return ">99.9%" if share > 0.999 else f"{_percent(share)}%"


def _likeliest(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda item: -item[1])


def _language_tag(lang: str) -> str:
    """BCP 47, for the page's ``lang`` attributes."""
    return lang.replace("_", "-")


def _points(difference: float) -> str:
    """Percentage points with their sign, a true minus."""
    rounded = round(difference * 100, 1) + 0.0  # no negative zero
    return f"{rounded:+.1f}".replace("-", "\N{MINUS SIGN}")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _accuracy(row: LanguageRow, method: str) -> float:
    return row.scores[method].accuracy if method in row.scores else 0.0


def _overall_name(row: GroupRow, data: ReportData) -> str:
    names = {"non_pool": f"All but {data.pool_name}", "all": "All languages", "worst_decile": "Worst tenth"}
    return names[row.kind]
