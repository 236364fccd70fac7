import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xampler.core.text import text_id
from xampler.models.fake import FakeEncoder
from xampler.models.index import (
    Bm25Index,
    CandidateIndex,
    CandidatePool,
    EmptyIndex,
    EncoderIndex,
    Found,
    RandomIndex,
)

TEXTS = (
    "The team won the final match",
    "The minister opened a new hospital",
    "A rocket reached the far side of the moon",
    "The match of the season was won by the home team",
    "Travel by train through the mountains, by night!",
)


def id_of(text: str) -> str:
    return text_id("toy", "eng_Latn", text)


def make_pool(texts: Sequence[str] = TEXTS) -> CandidatePool:
    rows = sorted((id_of(text), text, f"label {number}") for number, text in enumerate(texts))
    ids, ordered, labels = zip(*rows, strict=True)
    return CandidatePool(ids, ordered, labels)


def encoder_index(pool: CandidatePool) -> EncoderIndex:
    encoder = FakeEncoder()
    return EncoderIndex(pool, encoder.encode(pool.texts), encoder)


def search(index: CandidateIndex, texts: Sequence[str], k: int) -> list[list[Found]]:
    return index.search([id_of(text) for text in texts], texts, k)


def found_texts(index: CandidateIndex, pool: CandidatePool, text: str, k: int) -> list[str]:
    [hits] = search(index, [text], k)
    return [pool.texts[hit.position] for hit in hits]


def bm25_by_formula(query: str, texts: Sequence[str]) -> list[float]:
    """Lucene's: sum over query words of idf * tf / (tf + k1 * (1 - b + b * length / mean length))."""
    k1, b = 1.5, 0.75
    documents = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    mean = sum(document.total() for document in documents) / len(documents)
    scores = []
    for document in documents:
        norm = k1 * (1 - b + b * document.total() / mean)
        score = 0.0
        for word in re.findall(r"\w+", query.lower()):
            df = sum(word in other for other in documents)
            if df:
                idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
                score += idf * document[word] / (document[word] + norm)
        scores.append(score)
    return scores


@pytest.fixture(params=["bm25", "encoder", "random"])
def full_index(request: pytest.FixtureRequest) -> CandidateIndex:
    pool = make_pool()
    indices: dict[str, CandidateIndex] = {
        "bm25": Bm25Index(pool),
        "encoder": encoder_index(pool),
        "random": RandomIndex(pool, seed=0),
    }
    return indices[request.param]


@pytest.mark.parametrize(
    "query",
    ["the match", "THE moon, the MOON", "a new night train", "unknown match words", TEXTS[0] + " again"],
)
def test_bm25_agrees_with_its_formula(query: str) -> None:
    pool = make_pool()
    [hits] = search(Bm25Index(pool), [query], 5)
    expected = bm25_by_formula(query, pool.texts)
    assert [hit.similarity for hit in hits] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
    assert [hit.similarity for hit in hits] == pytest.approx(
        [expected[hit.position] for hit in hits], abs=1e-5
    )


def test_query_that_shares_no_word_gets_the_first_ids() -> None:
    pool = make_pool()
    for query in (
        "\u0627\u0644\u0637\u0642\u0633 \u062c\u0645\u064a\u0644",
        "\u5929\u6c14\u5f88\u597d",
        "...",
        "",
    ):
        assert search(Bm25Index(pool), [query], 2) == [[Found(0, 0.0), Found(1, 0.0)]]


def test_bm25_keeps_words_of_marked_scripts_whole() -> None:
    # The vowel signs of Devanagari are combining marks: cut there, both words would share their consonants.
    river, woman = "\u0928\u0926\u0940", "\u0928\u093e\u0926"
    pool = make_pool([f"{river} x", f"{woman} y"])
    [hits] = search(Bm25Index(pool), [river], 2)
    assert [(pool.texts[hit.position][0:3], hit.similarity > 0) for hit in hits] == [
        (river, True),
        (woman, False),
    ]


def test_bm25_finds_decomposed_words() -> None:
    pool = make_pool(["un caf\u00e9 noir", "un the vert"])
    assert found_texts(Bm25Index(pool), pool, "cafe\u0301", 1) == ["un caf\u00e9 noir"]


def test_encoder_index_agrees_with_cosines_one_by_one() -> None:
    pool, encoder = make_pool(), FakeEncoder()
    queries = ["the match of the team", "a hospital on the moon"]
    for query, hits in zip(queries, search(encoder_index(pool), queries, 3), strict=True):
        vector_D = encoder.encode([query])[0].astype(np.float64)
        cosines = [
            float(vector_D @ other_D / np.linalg.norm(vector_D) / np.linalg.norm(other_D))
            for other_D in encoder.encode(pool.texts).astype(np.float64)
        ]
        best = sorted(range(len(cosines)), key=lambda i: (-round(cosines[i], 6), pool.ids[i]))[:3]
        assert [hit.position for hit in hits] == best
        assert [hit.similarity for hit in hits] == pytest.approx([cosines[i] for i in best], abs=1e-6)


def test_candidates_at_the_same_cosine_come_in_order_of_id() -> None:
    pool = make_pool(["red car", "car red", "red  car .", "green tree"])
    [hits] = search(encoder_index(pool), ["the red car"], 3)
    assert [hit.position for hit in hits] == sorted(hit.position for hit in hits)
    assert "green tree" not in {pool.texts[hit.position] for hit in hits}


def test_a_query_of_the_pool_never_finds_itself(full_index: CandidateIndex) -> None:
    pool = make_pool()
    for text, hits in zip(TEXTS, search(full_index, TEXTS, 5), strict=True):
        assert len(hits) == 4
        assert text not in {pool.texts[hit.position] for hit in hits}


def test_the_same_text_in_another_unicode_form_is_itself() -> None:
    pool = make_pool(["caf\u00e9 noir", "caf\u00e9 vert"])
    for index in (Bm25Index(pool), encoder_index(pool), RandomIndex(pool, 0)):
        assert found_texts(index, pool, "cafe\u0301 noir", 2) == ["caf\u00e9 vert"]


def test_each_query_is_searched_for_itself(full_index: CandidateIndex) -> None:
    queries = ["the match", "moon rocket", "night train"]
    together = search(full_index, queries, 2)
    assert together == [search(full_index, [query], 2)[0] for query in queries]
    assert len({tuple(hit.position for hit in hits) for hits in together}) > 1


def test_no_query_finds_nothing(full_index: CandidateIndex) -> None:
    assert search(full_index, [], 3) == []


def test_pool_of_one() -> None:
    pool = make_pool(["The only text"])
    for index in (Bm25Index(pool), encoder_index(pool), RandomIndex(pool, 0)):
        assert [hit.position for hit in search(index, ["only one"], 10)[0]] == [0]
        assert search(index, ["The only text"], 10) == [[]]


def test_random_index_draws_by_query_id_and_seed() -> None:
    pool = make_pool([f"text {number}" for number in range(40)])
    first, other = (search(RandomIndex(pool, seed), ["a", "b"], 5) for seed in (0, 1))
    assert first == search(RandomIndex(pool, 0), ["a", "b"], 5)
    assert first != other
    assert first[0] != first[1]
    assert {hit.similarity for hits in first for hit in hits} == {0.0}
    assert first[0] == RandomIndex(pool, 0).search([id_of("a")], ["other words, same id"], 5)[0]


@given(st.lists(st.text(), max_size=4), st.integers(1, 5))
def test_empty_index_finds_nothing(texts: list[str], k: int) -> None:
    assert search(EmptyIndex(), texts, k) == [[] for _ in texts]


def test_bm25_over_a_pool_without_words() -> None:
    index = Bm25Index(CandidatePool(("a", "b"), ("!", "?"), ("travel", "health")))
    [found] = index.search(["q"], ["any words"], 2)
    assert [(hit.position, hit.similarity) for hit in found] == [(0, 0.0), (1, 0.0)]
