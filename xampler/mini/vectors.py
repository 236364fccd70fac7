"""Token vectors in closed form: which meanings a token occurs in, reduced to what tells meanings apart.

Translations of one sentence share its meaning, so a token's counts over the meanings, summed over all
languages, describe what it is about. Sentences must be judged by vectors that have not seen their meaning:
*out-of-fold* vectors, made from the other folds' counts alone. Where an English sentence encoder is at hand,
meanings that it finds alike count as partly the same. Linear discriminant analysis then keeps the
directions in which meanings differ and languages do not.

Shape suffixes: S sentences, M meanings, V vocabulary, R reduced, D output dimensions, F folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

from xampler.config import Config
from xampler.mini.tokenizer import SPECIAL_TOKENS


class VectorsConfig(Config):
    """How token vectors are computed."""

    folds: int = 10
    reduced: int = 600  # of at most 701 dimensions: the rest is noise of single meanings
    prior_count: float = 5.0  # a token seen this often keeps half its weight: rare ones say little
    kinship: float = 4.0  # weight of the similarity of meanings beside their identity


@dataclass(frozen=True)
class TokenVectors:
    """Token vectors from all meanings, and from all but one fold's.

    Attributes:
        full_VD: for text that was not in the training split.
        folds_FVD: for the sentences of one fold; that fold's meanings took no part.
        fold_M: fold of each meaning.
    """

    full_VD: NDArray[np.float32]
    folds_FVD: NDArray[np.float32]
    fold_M: NDArray[np.int64]


def token_vectors(
    ids_S: Sequence[NDArray[np.int32]],
    meaning_S: NDArray[np.int64],
    vocab_size: int,
    dimensions: int,
    config: VectorsConfig,
    seed: int,
    similarity_MM: NDArray[np.float64] | None = None,
) -> TokenVectors:
    """Compute the vectors of all tokens.

    Args:
        ids_S: token ids of each sentence.
        meaning_S: meaning of each sentence, in ``[0, M)``.
        dimensions: D, less than M.
        similarity_MM: how alike meanings are, positive semi-definite; None for not at all.
    """
    counts_SV = count_tokens(ids_S, vocab_size)
    counts_VM = _sum_over_languages(counts_SV, meaning_S)
    kinship_MM = _kinship_root(counts_VM.shape[1], similarity_MM, config.kinship)
    basis_MR = _basis(_association(counts_VM, config.prior_count) @ kinship_MM, counts_VM, config.reduced)
    basis_MR = kinship_MM @ basis_MR
    fold_M = fold_of_meanings(counts_VM.shape[1], config.folds, seed)
    folds_FVR = np.stack(
        [_table(counts_VM, basis_MR, fold_M != fold, config.prior_count) for fold in range(config.folds)]
    )
    sentences_SR = out_of_fold_sentences(counts_SV, folds_FVR, fold_M[meaning_S])
    projection_RD = _discriminants(sentences_SR, meaning_S, dimensions)
    full_VR = _table(counts_VM, basis_MR, np.ones(len(fold_M), dtype=bool), config.prior_count)
    return TokenVectors(full_VR @ projection_RD, folds_FVR @ projection_RD, fold_M)


def fold_of_meanings(meanings: int, folds: int, seed: int) -> NDArray[np.int64]:
    """A random fold for each meaning, all folds of (nearly) the same size."""
    fold_M: NDArray[np.int64] = np.random.default_rng(seed).permutation(np.arange(meanings) % folds)
    return fold_M


def count_tokens(ids_S: Sequence[NDArray[np.int32]], vocab_size: int) -> sp.csr_matrix:
    """Token counts of each sentence ``[S, V]``, float32; special tokens count 0."""
    lengths_S = np.array([len(ids) for ids in ids_S])
    columns = np.concatenate([*ids_S]) if len(ids_S) else np.zeros(0, dtype=np.int32)
    rows = np.repeat(np.arange(len(ids_S)), lengths_S)
    keep = columns >= len(SPECIAL_TOKENS)
    ones = np.ones(int(keep.sum()), dtype=np.float32)
    return sp.csr_matrix((ones, (rows[keep], columns[keep])), shape=(len(ids_S), vocab_size))


def out_of_fold_sentences(
    counts_SV: sp.csr_matrix, folds_FVR: NDArray[np.float32], fold_S: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Each sentence ``[S, R]`` from the vectors of the other folds, scaled to length 1."""
    sentences_SR = np.zeros((counts_SV.shape[0], folds_FVR.shape[2]), dtype=np.float32)
    for fold, table_VR in enumerate(folds_FVR):
        rows = np.flatnonzero(fold_S == fold)
        sentences_SR[rows] = counts_SV[rows] @ table_VR
    sentences_SR /= np.maximum(np.linalg.norm(sentences_SR, axis=1, keepdims=True), 1e-9)
    return sentences_SR


def _sum_over_languages(counts_SV: sp.csr_matrix, meaning_S: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.ascontiguousarray((_membership(meaning_S) @ counts_SV).toarray().T)


def _membership(meaning_S: NDArray[np.int64]) -> sp.csr_matrix:
    """1 where a sentence has a meaning, ``[M, S]``."""
    sentences = len(meaning_S)
    ones = np.ones(sentences, dtype=np.float32)
    return sp.csr_matrix(
        (ones, (meaning_S, np.arange(sentences))), shape=(int(meaning_S.max()) + 1, sentences)
    )


def _association(counts_VM: NDArray[np.float32], prior_count: float) -> NDArray[np.float32]:
    """How much more often than by chance each token occurs in each meaning, shrunk for rare tokens."""
    total_V1 = counts_VM.sum(axis=1, keepdims=True)
    share_M = counts_VM.sum(axis=0) / max(counts_VM.sum(), 1.0)
    association_VM: NDArray[np.float32] = (counts_VM - total_V1 * share_M) / (total_V1 + prior_count)
    return association_VM


def _kinship_root(
    meanings: int, similarity_MM: NDArray[np.float64] | None, weight: float
) -> NDArray[np.float32]:
    """Square root of the identity plus the weighted similarity, which is scaled to a mean diagonal of 1."""
    if similarity_MM is None:
        return np.eye(meanings, dtype=np.float32)
    scaled_MM = similarity_MM * (meanings / np.trace(similarity_MM))
    values_M, vectors_MM = np.linalg.eigh(np.eye(meanings) + weight * scaled_MM)
    root_MM: NDArray[np.float32] = ((vectors_MM * np.sqrt(values_M)) @ vectors_MM.T).astype(np.float32)
    return root_MM


def _basis(
    association_VM: NDArray[np.float32], counts_VM: NDArray[np.float32], reduced: int
) -> NDArray[np.float32]:
    weighted_VM = association_VM * counts_VM.sum(axis=1, keepdims=True)
    meanings = counts_VM.shape[1]
    wanted = (max(0, meanings - reduced), meanings - 1)
    _, basis_MR = scipy.linalg.eigh(association_VM.T @ weighted_VM, subset_by_index=wanted)
    return np.ascontiguousarray(basis_MR[:, ::-1], dtype=np.float32)


def _table(
    counts_VM: NDArray[np.float32],
    basis_MR: NDArray[np.float32],
    seen_M: NDArray[np.bool_],
    prior_count: float,
) -> NDArray[np.float32]:
    """Token vectors ``[V, R]`` from the seen meanings alone."""
    association_VM = _association(np.ascontiguousarray(counts_VM[:, seen_M]), prior_count)
    return association_VM @ basis_MR[seen_M]


def _discriminants(
    sentences_SR: NDArray[np.float32], meaning_S: NDArray[np.int64], dimensions: int
) -> NDArray[np.float32]:
    """Directions ``[R, D]`` that tell meanings apart whatever the language, whitened, best first."""
    meanings = int(meaning_S.max()) + 1
    count_M1 = np.bincount(meaning_S, minlength=meanings)[:, None]
    means_MR = (_membership(meaning_S) @ sentences_SR) / count_M1
    centred_SR = sentences_SR - means_MR[meaning_S]
    within_RR = (centred_SR.T @ centred_SR / len(meaning_S)).astype(np.float64)
    # a mean of n translations carries 1/n of the within-meaning covariance
    between_RR = np.cov(means_MR.T, bias=True) - within_RR / count_M1.mean()
    ridge_RR = np.eye(within_RR.shape[0]) * np.trace(within_RR) / within_RR.shape[0]
    reduced = within_RR.shape[0]
    wanted = (max(0, reduced - dimensions), reduced - 1)
    _, projection_RD = scipy.linalg.eigh(between_RR, within_RR + ridge_RR, subset_by_index=wanted)
    return np.ascontiguousarray(projection_RD[:, ::-1], dtype=np.float32)
