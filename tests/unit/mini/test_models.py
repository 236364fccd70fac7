"""The constructed starts of both models, before any training."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from xampler.core.prompt import Demonstration, build_prompt
from xampler.mini.encoder import EncoderConfig, build_encoder, embed, hidden_vectors
from xampler.mini.language_model import (
    LanguageModelConfig,
    build_language_model,
    rotary_window,
    word_embeddings,
)
from xampler.mini.measure import score_labels
from xampler.mini.prompts import LABELS, PHRASES, SIB200_LABELS, TASK, PromptTokens
from xampler.mini.tokenizer import SPECIAL_TOKENS, TokenizerConfig, encode_flat, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    subjects = ("runner", "team", "coach", "doctor", "fever", "train", "hotel", "king", "vote", "law")
    texts = [f"the {subject} sees one more {subject}" for subject in subjects]
    return train_tokenizer(texts, PHRASES, TokenizerConfig(vocab_size=400))


def test_hidden_vectors_have_mean_zero_and_one_norm() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 30)).astype(np.float32)
    vectors[0] = 0
    hidden = hidden_vectors(vectors, EncoderConfig(hidden=32, median_norm=2.0, largest_norm=3.5))
    np.testing.assert_allclose(hidden.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(hidden, axis=1), np.sqrt(32), rtol=1e-4)


def test_the_encoder_starts_as_the_mean_of_its_token_vectors() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(60, 254)).astype(np.float32)
    vectors[: len(SPECIAL_TOKENS)] = 0
    encoder = build_encoder(vectors, EncoderConfig(), seed=0)
    texts = [rng.integers(5, 60, length).astype(np.int32) for length in (3, 9, 20)]
    means = np.stack([vectors[ids].mean(axis=0) for ids in texts])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    own = embed(encoder, texts)[:, :254]
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    assert (own * means).sum(axis=1).min() > 0.98


def test_the_rotary_window_falls_off_behind_its_edge() -> None:
    config = LanguageModelConfig()
    cosine, sine = (part.numpy() for part in rotary_window(config))
    speeds = config.rope_theta ** (-np.arange(64) / 64)

    def score(distance: int) -> float:
        return float(cosine @ np.cos(distance * speeds) - sine @ np.sin(distance * speeds))

    assert min(score(distance) for distance in range(config.window)) > 1.5
    assert max(score(distance) for distance in range(config.window + 12, 500)) < -1


def test_prompt_tokens_are_those_of_the_prompt_text(tokenizer: Tokenizer) -> None:
    tokens = PromptTokens.of(tokenizer, SIB200_LABELS)
    demonstrations = [("the coach sees one", 4), ("a vote", 3)]
    text = build_prompt(
        TASK, "the king", [Demonstration(shown, SIB200_LABELS[label]) for shown, label in demonstrations]
    )
    # within quotes a text's first word has no space before it
    texts = ['"the king', *(f'"{shown}' for shown, _ in demonstrations)]
    query, *shown = (ids[1:] for ids in encode_flat(tokenizer, texts))
    built = tokens.prompt(query, list(zip(shown, (4, 3), strict=True)))
    assert built[1:] == tokenizer.encode(text).ids


def test_every_label_begins_with_a_token_of_its_own(tokenizer: Tokenizer) -> None:
    tokens = PromptTokens.of(tokenizer, LABELS)
    assert len({label[0] for label in tokens.labels}) == len(LABELS)
    assert len(tokens.identity_ids) <= LanguageModelConfig().identity


def test_the_language_model_starts_as_a_vote_for_the_similar_demonstration(tokenizer: Tokenizer) -> None:
    config = LanguageModelConfig()
    tokens = PromptTokens.of(tokenizer, SIB200_LABELS)
    rng = np.random.default_rng(2)
    topics = rng.normal(size=(2, config.vector))
    size = tokenizer.get_vocab_size()
    identity_ids = tokens.identity_ids
    words = np.array_split(
        np.setdiff1d(np.arange(len(SPECIAL_TOKENS), size), identity_ids).astype(np.int32), 2
    )
    # as in real text, words of one topic differ by more than topics do
    vectors = rng.normal(scale=2.8, size=(size, config.vector)).astype(np.float32)
    for topic, own in zip(topics, words, strict=True):
        vectors[own] += topic
    embeddings = word_embeddings(vectors, identity_ids, config)
    model = build_language_model(
        embeddings, identity_ids, [label[0] for label in tokens.labels], config, seed=0
    )
    shown = [(rng.choice(words[0], 32), 5), (rng.choice(words[1], 32), 2)]
    prompts = [
        tokens.prompt(rng.choice(words[topic], 32), order)
        for topic in (0, 1)
        for order in (shown, shown[::-1])
    ]
    assert score_labels(model, tokens, prompts, 2).argmax(axis=1).tolist() == [5, 5, 2, 2]
