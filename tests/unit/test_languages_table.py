"""``conf/languages.tsv``: its invariants, and its agreement with the language list of the data sets."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from xampler.core.language import CODE_PATTERN, COLUMNS, UNKNOWN, Languages
from xampler.pipeline.sources.language_table import load_languages

REPOSITORY = Path(__file__).parents[2]
LANGUAGE_LIST = REPOSITORY.parent / "shared" / "data" / "languages.csv"
# Glottolog lists their codes only as bookkeeping entries.
WITHOUT_FAMILY = {"dso_Orya", "kze_Latn", "unx_Orya"}
# One variety under two codes: the row of the second stands for both.
MERGED = {
    "cmn_Hans": "zho_Hans",
    "cmn_Hant": "zho_Hant",
    "ekk_Latn": "est_Latn",
    "orm_Latn": "gaz_Latn",
    "swa_Latn": "swh_Latn",
    "yue_Hani": "yue_Hant",
}
MASAKHANEWS = {
    "amh": "amh_Ethi",
    "eng": "eng_Latn",
    "fra": "fra_Latn",
    "hau": "hau_Latn",
    "ibo": "ibo_Latn",
    "lin": "lin_Latn",
    "lug": "lug_Latn",
    "orm": "gaz_Latn",
    "pcm": "pcm_Latn",
    "run": "run_Latn",
    "sna": "sna_Latn",
    "som": "som_Latn",
    "swa": "swh_Latn",
    "tir": "tir_Ethi",
    "xho": "xho_Latn",
    "yor": "yor_Latn",
}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (REPOSITORY / "conf" / "languages.tsv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, dialect="excel-tab"))


@pytest.fixture(scope="module")
def languages() -> Languages:
    return load_languages()


def test_columns_order_and_size(rows: list[dict[str, str]]) -> None:
    assert tuple(rows[0]) == COLUMNS
    assert [row["code"] for row in rows] == sorted(row["code"] for row in rows)
    assert len(rows) == 1_124


def test_no_code_or_alias_names_two_rows(rows: list[dict[str, str]]) -> None:
    names = Counter(name for row in rows for name in (row["code"], *row["aliases"].split()))
    assert [name for name, count in names.items() if count > 1] == []
    assert all(re.fullmatch(CODE_PATTERN, name) for name in names)


def test_family_and_glottocode_are_known(rows: list[dict[str, str]]) -> None:
    assert {row["code"] for row in rows if row["family"] in ("", UNKNOWN)} == WITHOUT_FAMILY
    without = {row["code"] for row in rows if not re.fullmatch(r"[a-z0-9]{4}\d{4}", row["glottocode"])}
    # Macrolanguages whose member languages Glottolog lists in their place.
    assert without == {"grn_Latn", "kon_Latn", "que_Latn", "srd_Latn"}
    assert all(row["name"].strip() for row in rows)


def test_every_iso_639_3_code_resolves_without_script(
    rows: list[dict[str, str]], languages: Languages
) -> None:
    for row in rows:
        assert languages.resolve(row["iso639_3"]).iso639_3 == row["iso639_3"]


@pytest.mark.parametrize(("source_code", "code"), [*MERGED.items(), *MASAKHANEWS.items()])
def test_codes_of_other_data_sets(languages: Languages, source_code: str, code: str) -> None:
    assert languages.resolve(source_code).code == code


@pytest.mark.parametrize(
    ("source_code", "code"),
    [
        ("cmn_Hani", "zho_Hans"),
        ("cmn", "zho_Hans"),
        ("zho", "zho_Hans"),
        ("ful_Latn", "fuv_Latn"),
        ("mon_Cyrl", "khk_Cyrl"),
        ("pus_Arab", "pbt_Arab"),
        ("uzb_Latn", "uzn_Latn"),
        ("yid_Hebr", "ydd_Hebr"),
        ("ara", "arb_Arab"),
        ("fas", "pes_Arab"),
    ],
)
def test_macrolanguages_and_codes_of_glot500(languages: Languages, source_code: str, code: str) -> None:
    assert languages.resolve(source_code).code == code


def test_coverage_flags(languages: Languages) -> None:
    counts = (
        sum(language.in_mala500 for language in languages.all),
        sum(language.in_xlmr for language in languages.all),
    )
    assert counts == (324, 94)
    assert languages.resolve("swh_Latn").in_xlmr
    assert not languages.resolve("yor_Latn").in_xlmr


def test_agreement_with_the_list_of_the_data_sets(languages: Languages) -> None:
    """Where the list is at hand, every row of it; else the samples above stand for it."""
    if not LANGUAGE_LIST.exists():
        assert languages.resolve("yor_Latn").family == "Atlantic-Congo"
        return
    with LANGUAGE_LIST.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            language = languages.resolve(row["code"])
            assert language.code == MERGED.get(row["code"], row["code"])
            assert language.family == (row["family"] or UNKNOWN)
            assert language.in_mala500 == (row["in_mala500"] == "1") == (row["in_glot500"] == "1")
            assert language.in_xlmr == (row["in_xlmr100"] == "1")
            if row["code"] not in MERGED and row["iso639_3"] != "zho":
                assert (language.iso639_3, language.script, language.name) == (
                    row["iso639_3"],
                    row["script"],
                    row["name"],
                )
                assert language.glottocode == row["glottocode"] or row["code"] == "est_Latn"
            for alias in (row["masakhanews_code"], row["xampler_code"], row["glot500_code"]):
                # cmn_Hani and zho_Hani do not say which Chinese script they are.
                if alias and not alias.endswith("_Hani"):
                    assert languages.resolve(alias).code == language.code
