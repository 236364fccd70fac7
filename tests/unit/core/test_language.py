import logging
import re

import pytest

from xampler.core.language import CODE_PATTERN, COLUMNS, UNKNOWN, Language, Languages
from xampler.errors import LanguageCodeError

ROWS = (
    "swh_Latn swh Latn Swahili Atlantic-Congo swah1253 1 1 swa,swa_Latn",
    "zho_Hans zho Hans Chinese Sino-Tibetan mand1415 1 1 zho,cmn_Hani",
    "zho_Hant zho Hant Chinese Sino-Tibetan mand1415 1 0 -",
    "srp_Cyrl srp Cyrl Serbian Indo-European serb1264 1 1 -",
    "srp_Latn srp Latn Serbian Indo-European serb1264 0 0 -",
    "yor_Latn yor Latn Yoruba Atlantic-Congo yoru1245 1 0 -",
)


def make_row(line: str) -> dict[str, str]:
    row = dict(zip(COLUMNS, line.split(), strict=True))
    return row | {"aliases": row["aliases"].replace(",", " ").replace("-", "")}


@pytest.fixture
def languages() -> Languages:
    return Languages.parse_rows(make_row(line) for line in ROWS)


def test_row_becomes_language(languages: Languages) -> None:
    expected = Language("zho_Hant", "zho", "Hant", "Chinese", "Sino-Tibetan", "mand1415", True, False)
    assert languages.resolve("zho_Hant") == expected
    assert [language.code for language in languages.all] == [line.split()[0] for line in ROWS]


@pytest.mark.parametrize(
    ("source_code", "code"),
    [
        ("swh_Latn", "swh_Latn"),
        ("swa_Latn", "swh_Latn"),
        ("swa", "swh_Latn"),
        ("swh", "swh_Latn"),
        ("cmn_Hani", "zho_Hans"),
        ("zho", "zho_Hans"),  # an alias decides where a code has several scripts
        ("yor", "yor_Latn"),
    ],
)
def test_code_alias_and_iso_639_3_lead_to_one_language(
    languages: Languages, source_code: str, code: str
) -> None:
    assert languages.resolve(source_code).code == code


def test_unlisted_code_is_unknown_and_warned_of_once(
    languages: Languages, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = [languages.resolve("qqq_Latn") for _ in range(3)]
    assert len(set(found)) == 1
    assert (found[0].code, found[0].family, found[0].in_mala500) == ("qqq_Latn", UNKNOWN, False)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "language qqq_Latn is not in conf/languages.tsv"
    ]


def test_unlisted_code_without_script_gets_the_undetermined_one(languages: Languages) -> None:
    language = languages.resolve("qqq")
    assert (language.code, language.iso639_3, language.script) == ("qqq_Zyyy", "qqq", "Zyyy")
    assert languages.resolve("qqq_Zyyy").code == "qqq_Zyyy"


def test_listed_language_in_another_script_keeps_its_family(languages: Languages) -> None:
    language = languages.resolve("yor_Arab")
    assert (language.code, language.script, language.family) == ("yor_Arab", "Arab", "Atlantic-Congo")
    assert not language.in_mala500


@pytest.mark.parametrize(
    "code", ["", "en", "eng_latn", "ENG_Latn", "eng-Latn", "eng_Latn ", "english", "eng_Latn\n"]
)
def test_malformed_code_is_refused_with_remedy(languages: Languages, code: str) -> None:
    with pytest.raises(LanguageCodeError, match="yor_Latn") as caught:
        languages.resolve(code)
    assert repr(code) in str(caught.value)


def test_iso_639_3_alone_is_refused_where_scripts_differ(languages: Languages) -> None:
    with pytest.raises(LanguageCodeError, match="srp_Cyrl, srp_Latn"):
        languages.resolve("srp")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("yor_Latn yor Latn Yoruba Atlantic-Congo yoru1245 1 0 -", "twice"),
        (
            "lin_Latn lin Latn Lingala Atlantic-Congo ling1269 1 0 swa",
            "alias swa of both swh_Latn and lin_Latn",
        ),
        ("lin_Latn lin Latn Lingala Atlantic-Congo ling1269 1 0 yor_Latn", "alias yor_Latn of lin_Latn"),
        ("lin_Latn lin Arab Lingala Atlantic-Congo ling1269 1 0 -", "lin_Latn is not"),
        ("lin_Latn lin Latn Lingala Atlantic-Congo ling1269 yes 0 -", "flags must be 0 or 1"),
    ],
)
def test_contradictory_table_is_refused(line: str, said: str) -> None:
    with pytest.raises(LanguageCodeError, match=said):
        Languages.parse_rows(make_row(line) for line in (*ROWS, line))


def test_row_without_a_column_is_refused() -> None:
    row = make_row(ROWS[0])
    del row["family"]
    with pytest.raises(LanguageCodeError, match="no family"):
        Languages.parse_rows([row])


def test_pattern_is_anchored() -> None:
    assert not re.search(CODE_PATTERN, "the eng_Latn text")
