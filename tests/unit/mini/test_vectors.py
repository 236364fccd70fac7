"""Token vectors in closed form."""

from __future__ import annotations

import numpy as np

from xampler.mini.vectors import (
    TokenVectors,
    VectorsConfig,
    count_tokens,
    fold_of_meanings,
    out_of_fold_sentences,
    token_vectors,
)

CONFIG = VectorsConfig(folds=4, reduced=16)


def _vectors(ids: list[np.ndarray], meaning: np.ndarray) -> TokenVectors:
    return token_vectors(ids, meaning, 60, 8, CONFIG, seed=3)


def _corpus(seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """20 meanings in 3 languages; each language has its own tokens."""
    rng = np.random.default_rng(seed)
    topics = [rng.choice(15, 4, replace=False) for _ in range(20)]
    ids = [(5 + 18 * lang + topic).astype(np.int32) for lang in range(3) for topic in topics]
    return ids, np.tile(np.arange(20), 3)


def test_counts_ignore_special_tokens() -> None:
    counts = count_tokens([np.array([0, 7, 7, 2]), np.array([], dtype=np.int32)], 10).toarray()
    assert counts[0, 7] == 2
    assert counts.sum() == 2


def test_folds_have_equal_sizes() -> None:
    assert np.bincount(fold_of_meanings(20, 4, seed=1)).tolist() == [5, 5, 5, 5]


def test_a_token_of_one_fold_only_has_no_vector_in_its_table() -> None:
    """A table that had seen its own fold's meanings would give their private token a vector."""
    ids, meaning = _corpus()
    lonely = 59
    ids[4] = np.append(ids[4], lonely).astype(np.int32)
    vectors = _vectors(ids, meaning)
    own = vectors.fold_M[4]
    norms = np.linalg.norm(vectors.folds_FVD[:, lonely], axis=1)
    assert norms[own] == 0
    assert (np.delete(norms, own) > 0).all()


def test_out_of_fold_sentences_have_length_one_and_use_their_folds_table() -> None:
    ids, meaning = _corpus()
    vectors = _vectors(ids, meaning)
    counts = count_tokens(ids, 60)
    sentences = out_of_fold_sentences(counts, vectors.folds_FVD, vectors.fold_M[meaning])
    np.testing.assert_allclose(np.linalg.norm(sentences, axis=1), 1, rtol=1e-5)
    expected = vectors.folds_FVD[vectors.fold_M[meaning[7]]][ids[7]].sum(axis=0)
    np.testing.assert_allclose(sentences[7], expected / np.linalg.norm(expected), rtol=1e-4, atol=1e-6)


def test_translations_are_nearest_by_the_full_table() -> None:
    ids, meaning = _corpus()
    full = _vectors(ids, meaning).full_VD
    sentences = np.stack([full[row].sum(axis=0) for row in ids])
    sentences /= np.linalg.norm(sentences, axis=1, keepdims=True)
    nearest = np.argmax(sentences[20:40] @ sentences[:20].T, axis=1)
    assert (nearest == np.arange(20)).mean() > 0.9


def test_similar_meanings_come_closer() -> None:
    ids, meaning = _corpus()
    kin = np.eye(20)
    kin[0, 1] = kin[1, 0] = 0.99
    plain = _vectors(ids, meaning).full_VD
    helped = token_vectors(ids, meaning, 60, 8, CONFIG, seed=3, similarity_MM=kin).full_VD

    def cosine(table: np.ndarray) -> float:
        first, second = (table[ids[meaning_]].sum(axis=0) for meaning_ in (0, 1))
        return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))

    assert cosine(helped) > cosine(plain)
