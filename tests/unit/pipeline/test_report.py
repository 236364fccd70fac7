"""The report, the terminal's table and the summary, from figures made by hand."""

import re
from dataclasses import replace
from datetime import date
from html import unescape
from html.parser import HTMLParser

import pytest
from rich.console import Console

from xampler.core.language import COLUMNS, Languages
from xampler.pipeline.report import (
    Difference,
    Example,
    GroupRow,
    LanguageRow,
    MethodNote,
    RegisteredModel,
    ReportData,
    Score,
    ShownDemonstration,
    accuracy_table,
    render_report,
    summarise,
)
from xampler.pipeline.report.examples import LabelledQuery, choose_examples
from xampler.pipeline.report.page import fit_axis, method_columns

METHODS = ("majority", "untrained", "xampler")
ARABIC = "فاز الفريق بالمباراة"
VOID = {"meta", "input"}


def make_language(lang: str, name: str, family: str, *accuracies: float, queries: int = 10) -> LanguageRow:
    scores = {
        method: Score(accuracy, accuracy / 2, accuracy - 0.05, accuracy + 0.05)
        for method, accuracy in zip(METHODS, accuracies, strict=True)
    }
    return LanguageRow(lang, name, family, lang.partition("_")[2], queries, scores)


ENGLISH = make_language("eng_Latn", "English", "Indo-European", 0.1, 0.8, 0.9)
ARAB = make_language("arb_Arab", "Standard Arabic", "Afro-Asiatic", 0.2, 0.4, 0.5)
SWAHILI = make_language("swh_Latn", "Swahili", "Atlantic-Congo", 0.1, 0.5, 0.4)
EXAMPLE = Example(
    lang="arb_Arab",
    text=ARABIC,
    gold="sports",
    predicted="travel",
    probabilities={"sports": 0.3, "travel": 0.7},
    demonstrations=[
        ShownDemonstration("The train was <b>late</b> & full.", "travel", 0.41),
        ShownDemonstration("She won the race.", "sports", 0.62),
    ],
)


@pytest.fixture
def data() -> ReportData:
    others = {method: Score(0.3, 0.2, 0.25, 0.35) for method in METHODS}
    return ReportData(
        experiment="trial",
        task="sib200",
        pool_lang="eng_Latn",
        pool_name="English",
        method="xampler",
        base_method="untrained",
        methods=[MethodNote(name, f"What {name} does.") for name in METHODS],
        languages=[ENGLISH, ARAB, SWAHILI],
        groups=[
            GroupRow("all", "all", 3, 30, others),
            GroupRow("non_pool", "non_pool", 2, 20, others),
            GroupRow("script", "Arab", 1, 10, others),
        ],
        differences=[Difference("xampler", "untrained", 2, 0.0, -0.1, 0.1, 0.5)],
        made_on=date(2026, 1, 2),
        examples=[EXAMPLE],
        settings=[("Labels", "sports, travel")],
        model=RegisteredModel("trial-model", "3", "champion", "there was no champion"),
        prompts_scored=12,
        seconds={"ingest": 1.5, "predict": 75.0},
    )


class Balance(HTMLParser):
    """Fails on a tag that is closed in the wrong place; keeps what has attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parse(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    return parser


def print_table(data: ReportData, width: int = 80) -> list[list[str]]:
    """The table's lines, each split at its blanks."""
    console = Console(width=width, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(accuracy_table(data))
    lines = capture.get().splitlines()
    assert all(len(line) <= width for line in lines)
    return [re.split(r"\s{2,}", line.strip()) for line in lines if re.search(r"\d|language|family", line)]


def many_languages(count: int) -> list[LanguageRow]:
    families = ("Atlantic-Congo", "Austronesian", "Indo-European", "Trans-New Guinea")
    names = [f"{a}{b}{c}" for a in "abcdefgh" for b in "abcdefgh" for c in "abcdefgh"]
    return [
        make_language(f"{name}_Latn", f"Language {name}", families[i % 4], 0.1, 0.4, 0.5)
        for i, name in enumerate(names[:count])
    ]


def test_summary_has_means_over_all_languages(data: ReportData) -> None:
    assert summarise(data) == {
        "methods": {
            "majority": {
                "accuracy": pytest.approx(0.4 / 3),
                "by_language": {"eng_Latn": 0.1, "arb_Arab": 0.2, "swh_Latn": 0.1},
            },
            "untrained": {
                "accuracy": pytest.approx(1.7 / 3),
                "by_language": {"eng_Latn": 0.8, "arb_Arab": 0.4, "swh_Latn": 0.5},
            },
            "xampler": {
                "accuracy": pytest.approx(1.8 / 3),
                "by_language": {"eng_Latn": 0.9, "arb_Arab": 0.5, "swh_Latn": 0.4},
            },
        },
        "languages": 3,
        "prompts_scored": 12,
        "seconds": {"ingest": 1.5, "predict": 75.0},
    }


def test_table_ends_with_both_means(data: ReportData) -> None:
    assert print_table(data) == [
        ["language", "majority", "untrained", "xampler"],
        ["English", "10.0", "80.0", "90.0"],
        ["Standard Arabic", "20.0", "40.0", "50.0"],
        ["Swahili", "10.0", "50.0", "40.0"],
        ["all but English", "15.0", "45.0", "45.0"],
        ["mean", "13.3", "56.7", "60.0"],
    ]


def test_table_of_many_languages_shows_families(data: ReportData) -> None:
    rows = print_table(replace(data, languages=[ENGLISH, *many_languages(179)]))
    assert [row[0] for row in rows] == [
        "family",
        "English",
        "Atlantic-Congo (45)",
        "Austronesian (45)",
        "Indo-European (45)",
        "Trans-New Guinea (44)",
        "all but English",
        "mean",
    ]


def test_table_fits_a_narrow_terminal_with_method_names_whole(data: ReportData) -> None:
    names = [
        "majority",
        "zero-shot",
        "random",
        "bm25",
        "untrained",
        "minilm",
        "xampler",
        "xampler-contrastive",
    ]
    scores = {name: Score(0.5, 0.5) for name in names}
    rows = [replace(ENGLISH, scores=scores), replace(ARAB, scores=scores)]
    wide = replace(data, methods=[MethodNote(name, "") for name in names], languages=rows)
    header = print_table(wide)[0]
    assert header[-5:] == ["bm25", "untrained", "minilm", "xampler", "contrastive"]


def test_table_of_one_language_has_one_mean(data: ReportData) -> None:
    rows = print_table(replace(data, languages=[ENGLISH]))
    assert [row[0] for row in rows] == ["language", "English", "mean"]


def test_table_takes_text_as_text(data: ReportData) -> None:
    rows = print_table(replace(data, languages=[ENGLISH, replace(ARAB, name="[red]Arabic")]))
    assert rows[2][0] == "[red]Arabic"


def test_missing_method_is_left_out_of_means(data: ReportData) -> None:
    partial = replace(ARAB, scores={"untrained": Score(0.4, 0.4)})
    rows = print_table(replace(data, languages=[ENGLISH, partial]))
    assert rows[2] == ["Standard Arabic", "-", "40.0", "-"]
    assert rows[-1] == ["mean", "10.0", "60.0", "90.0"]
    parse(render_report(replace(data, languages=[ENGLISH, partial])))


def test_page_stands_alone(data: ReportData) -> None:
    page = render_report(data)
    parsed = parse(page)
    assert page.startswith("<!DOCTYPE html>")
    assert "http" not in page and "url(" not in page and "@import" not in page
    assert not [attributes for _, attributes in parsed.attributes if {"src", "href"} & set(attributes)]
    assert (
        "meta",
        {"name": "viewport", "content": "width=device-width, initial-scale=1"},
    ) in parsed.attributes


def test_page_shows_the_headline(data: ReportData) -> None:
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", render_report(data))).split())
    assert "30.0 % of texts labelled right by xampler , mean over the 2 languages other than English" in text
    assert "+0.0 points over untrained , on the same texts; 95% interval −10.0 to +10.0" in text
    assert "1 of 2 languages in which xampler is better than untrained" in text
    assert "trial-model version 3, alias champion : there was no champion" in text
    assert "1 min 15 s" in text


def test_texts_carry_language_and_direction(data: ReportData) -> None:
    parsed = parse(render_report(data))
    assert ("blockquote", {"lang": "arb-Arab", "dir": "auto"}) in parsed.attributes
    assert ("span", {"class": "text", "lang": "eng-Latn", "dir": "auto"}) in parsed.attributes
    assert ARABIC in render_report(data)


def test_special_characters_are_text(data: ReportData) -> None:
    nasty = '<script>alert("x")</script>&'
    page = render_report(
        replace(
            data,
            experiment=nasty,
            languages=[replace(ARAB, name=nasty, family=nasty)],
            examples=[replace(EXAMPLE, text=nasty, gold=nasty)],
            settings=[("Template", nasty)],
            methods=[*data.methods, MethodNote(nasty, nasty)],
        )
    )
    parse(page)
    assert page.count("<script>") == 1
    assert "alert" in page and nasty not in page
    assert "&lt;b&gt;late&lt;/b&gt; &amp; full." in page


def test_wrong_and_right_are_told_in_words(data: ReportData) -> None:
    right = replace(EXAMPLE, predicted="sports")
    page = render_report(replace(data, examples=[EXAMPLE, right]))
    assert "✗ travel, should be sports" in page
    assert "✓ right: sports" in page


def test_tiny_probabilities_are_not_called_zero(data: ReportData) -> None:
    sure = replace(EXAMPLE, probabilities={"sports": 1e-9, "travel": 1 - 1e-9})
    page = render_report(replace(data, examples=[sure]))
    assert "&lt;0.1%" in page and "&gt;99.9%" in page


def test_demonstrations_keep_the_prompts_order(data: ReportData) -> None:
    page = render_report(data)
    assert page.index("The train was") < page.index("She won the race") < page.index("the query stands here")


def test_method_without_interval_has_no_whisker(data: ReportData) -> None:
    bare = {method: Score(0.3, 0.2) for method in METHODS}
    languages = [replace(row, scores=bare) for row in data.languages]
    groups = [replace(row, scores=bare) for row in data.groups]
    differences = [replace(data.differences[0], low=None, high=None)]
    page = render_report(replace(data, languages=languages, groups=groups, differences=differences))
    parse(page)
    body = page.partition("<body")[2]
    assert 'class="whisker"' not in body and " ci" not in body and "--l:" not in body
    assert 'class="whisker"' in render_report(data)


def test_one_language_alone(data: ReportData) -> None:
    alone = replace(
        data,
        languages=[ENGLISH],
        groups=[replace(data.groups[0], languages=1)],
        differences=[replace(data.differences[0], languages=1, share_better=1.0)],
    )
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", render_report(alone))).split())
    assert "mean over 1 language" in text and "1 of 1 language in which" in text


def test_180_languages_each_have_one_row(data: ReportData) -> None:
    page = render_report(replace(data, languages=many_languages(180)))
    parse(page)
    assert page.count("<tr data-find=") == 180
    assert 'class="scroll tall"' in page


def test_bare_data_make_a_page(data: ReportData) -> None:
    bare = replace(
        data, groups=[], differences=[], examples=[], settings=[], model=None, seconds={}, prompts_scored=0
    )
    page = render_report(bare)
    parse(page)
    assert "Worked examples" not in page and "Time of each stage" not in page


def test_tables_begin_with_the_method_under_test(data: ReportData) -> None:
    assert method_columns(data) == ["xampler", "untrained", "majority"]
    assert method_columns(replace(data, base_method="xampler")) == ["xampler", "majority", "untrained"]
    parse(render_report(replace(data, base_method="xampler")))


@pytest.mark.parametrize(
    ("top", "end", "marks"),
    [
        (0.53, 0.6, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
        (0.6, 0.6, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
        (0.97, 1.0, (0.25, 0.5, 0.75, 1.0)),
        (0.8, 0.8, (0.2, 0.4, 0.6, 0.8)),
        (0.0, 0.1, (0.05, 0.1)),
    ],
)
def test_axis_ends_above_every_value(top: float, end: float, marks: tuple[float, ...]) -> None:
    axis = fit_axis([Score(0.0, 0.0), Score(0.0, 0.0, 0.0, top)])
    assert axis.end == pytest.approx(end)
    assert axis.marks == pytest.approx(marks)


LANGUAGE_ROWS = (
    "eng_Latn eng Latn English Indo-European stan1293 1 1",
    "deu_Latn deu Latn German Indo-European stan1295 1 1",
    "arb_Arab arb Arab Arabic Afro-Asiatic stan1318 1 1",
    "swh_Latn swh Latn Swahili Atlantic-Congo swah1253 1 1",
)


@pytest.fixture
def languages() -> Languages:
    columns = COLUMNS[:-1]
    return Languages.parse_rows(
        dict(zip(columns, line.split(), strict=True)) | {"aliases": ""} for line in LANGUAGE_ROWS
    )


def make_queries(*langs: str) -> list[LabelledQuery]:
    """A right and a wrong one of each language."""
    return [
        LabelledQuery(f"{lang}-{predicted}", lang, "sports", predicted)
        for lang in langs
        for predicted in ("sports", "travel")
    ]


def test_examples_are_right_and_wrong_in_turn_with_the_pool_last(languages: Languages) -> None:
    queries = make_queries("eng_Latn", "deu_Latn", "arb_Arab", "swh_Latn")
    chosen = choose_examples(queries, languages, "eng_Latn", 8)
    assert [query.predicted for query in chosen] == ["sports", "travel"] * 4
    assert [query.lang for query in chosen[-2:]] == ["eng_Latn", "eng_Latn"]
    assert {query.lang for query in chosen[:3]} == {"deu_Latn", "arb_Arab", "swh_Latn"}


def test_examples_go_to_another_script_first(languages: Languages) -> None:
    chosen = choose_examples(make_queries("deu_Latn", "swh_Latn", "arb_Arab"), languages, "eng_Latn", 2)
    assert "arb_Arab" in {query.lang for query in chosen}


def test_choice_of_examples_depends_on_no_order(languages: Languages) -> None:
    queries = make_queries("deu_Latn", "arb_Arab", "swh_Latn")
    chosen = choose_examples(queries, languages, "eng_Latn", 4)
    assert chosen == choose_examples(queries[::-1], languages, "eng_Latn", 4)


def test_examples_take_what_there_is(languages: Languages) -> None:
    only_right = [query for query in make_queries("arb_Arab", "swh_Latn") if query.predicted == "sports"]
    assert len(choose_examples(only_right, languages, "eng_Latn", 5)) == 2
    assert choose_examples([], languages, "eng_Latn", 5) == []
