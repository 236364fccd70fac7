import hashlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xampler.core.text import normalise_text, stable_fraction, stable_hash, text_id

TEXTS = {
    "precomposed Latin": "Caf\u00e9 \u1ec7",
    "Hangul syllables": "\ud55c\uad6d\uc5b4",
    "Devanagari": "\u0939\u093f\u0928\u094d\u0926\u0940",
    "Arabic with hamza": "\u0633\u0624\u0627\u0644 \u0623\u0645",
    "Yoruba tone marks": "\u1eccj\u00e0 \u00e8d\u00e8",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_composed_and_decomposed_text_have_one_id(text: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert text_id("sib200", "yor_Latn", composed) == text_id("sib200", "yor_Latn", decomposed)
    assert normalise_text(decomposed) == composed


def test_some_of_the_texts_do_differ_when_decomposed() -> None:
    assert sum(unicodedata.normalize("NFD", text) != text for text in TEXTS.values()) >= 4


def test_compatibility_forms_stay_apart() -> None:
    # NFKC would take the ligature for two letters and the full-width digit for a digit.
    assert text_id("t", "eng_Latn", "\ufb01") != text_id("t", "eng_Latn", "fi")
    assert text_id("t", "eng_Latn", "\uff11") != text_id("t", "eng_Latn", "1")


def test_only_outer_blanks_are_ignored() -> None:
    assert text_id("t", "heb_Hebr", " \u3000\u05e9\u05dc\u05d5\u05dd \n") == text_id(
        "t", "heb_Hebr", "\u05e9\u05dc\u05d5\u05dd"
    )
    assert text_id("t", "eng_Latn", "a  b") != text_id("t", "eng_Latn", "a b")
    assert text_id("t", "eng_Latn", "Us") != text_id("t", "eng_Latn", "us")


def test_id_depends_on_task_and_language() -> None:
    ids = {text_id(task, lang, "x") for task in ("sib200", "taxi1500") for lang in ("srp_Cyrl", "srp_Latn")}
    assert len(ids) == 4


def test_hash_is_blake2b_of_length_and_bytes_of_each_part() -> None:
    fed = (2).to_bytes(8, "little") + "\u00e9".encode() + (0).to_bytes(8, "little")
    assert stable_hash("\u00e9", "") == hashlib.blake2b(fed, digest_size=16).hexdigest()


def test_ids_of_earlier_versions_still_hold() -> None:
    # Stored tables are keyed by these: a change here makes every stored score unreachable.
    assert text_id("sib200", "eng_Latn", "Hello") == "239a1151a886ab0b9890be4f1ee3b711"
    assert stable_fraction("held_out", "0", "Hello") == 0.8764378747504651


def test_lone_surrogate_has_an_id() -> None:
    assert len(text_id("t", "eng_Latn", "\ud800")) == 32


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_different_parts_have_different_hashes(left: list[str], right: list[str]) -> None:
    assert (stable_hash(*left) == stable_hash(*right)) == (left == right)


def test_parts_are_not_merely_joined() -> None:
    assert (
        len({stable_hash("ab", "c"), stable_hash("a", "bc"), stable_hash("abc"), stable_hash("abc", "")}) == 4
    )


def test_fractions_are_spread_evenly() -> None:
    fractions = [stable_fraction("draw", str(number)) for number in range(2000)]
    assert all(0 <= fraction < 1 for fraction in fractions)
    tenths = [sum(int(fraction * 10) == tenth for fraction in fractions) for tenth in range(10)]
    assert min(tenths) > 140  # 200 expected, standard deviation 13
    assert max(tenths) < 260
