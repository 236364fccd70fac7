import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from xampler.core.ports import ScoringStatistics
from xampler.errors import DataError, LabelWordError, ModelError
from xampler.models import packed_attention
from xampler.models.causal_lm import CausalLanguageModel
from xampler.models.cpu_linear import round_up
from xampler.models.engines import Batch, PackedEngine, PaddedEngine
from xampler.models.label_tokens import TokenizedPrompt

PlainScores = Callable[..., NDArray[np.float64]]
EXACT = 1e-4  # nats

SHOT = 'The topic of the news "water is here and everywhere, Новости" is science/technology\n'
FRAME = 'The topic of the news "{}" is'
LABELS = ["science/technology", "science", "sports", "politics", "politician", "health"]
PROMPTS = [
    SHOT + FRAME.format("Timu ilishinda"),
    FRAME.format("one"),
    SHOT + FRAME.format("مباراة كرة القدم"),
    SHOT + SHOT + FRAME.format("ilishinda 2024"),
    SHOT + FRAME.format("Timu ilishinda"),  # a duplicate
    SHOT + FRAME.format("Timu ilishinda mechi"),
]
PACKED = ["llama", "mistral", "gemma", "gemma3", "qwen2", "qwen3", "gpt2", "gpt_neox"]
UNPACKED = ["gemma2", "qwen2_moe", "bloom", "xglm", "dynamic_rope"]
ARCHITECTURES = [*PACKED, *UNPACKED]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("tokens_per_batch", [60, 2048])
def test_score_labels_equals_plain_computation(
    name: str,
    tokens_per_batch: int,
    models_by_name: Callable[[str], PreTrainedModel],
    word_tokenizer: PreTrainedTokenizerBase,
    plain_scores: PlainScores,
) -> None:
    expected = plain_scores(models_by_name(name), word_tokenizer, PROMPTS, LABELS)
    scorer = CausalLanguageModel(models_by_name(name), word_tokenizer, tokens_per_batch=tokens_per_batch)
    assert isinstance(scorer._engine, PaddedEngine if name in UNPACKED else PackedEngine)
    scores = scorer.score_labels(PROMPTS, LABELS)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=EXACT)
    assert expected.std() > 0.5


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("tokens_per_batch", [60, 2048])
def test_calls_put_together_give_the_same(
    name: str,
    tokens_per_batch: int,
    models_by_name: Callable[[str], PreTrainedModel],
    word_tokenizer: PreTrainedTokenizerBase,
    plain_scores: PlainScores,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, with several lengths and beginnings in a batch."""
    monkeypatch.setattr(packed_attention, "_BLOCKS", {})
    monkeypatch.delattr(packed_attention, "_attend_alone")  # nothing may take the way of the CPU
    prompts = [*PROMPTS, *(SHOT * (number % 4) + FRAME.format("here is " * number) for number in range(20))]
    expected = plain_scores(models_by_name(name), word_tokenizer, prompts, LABELS)
    scorer = CausalLanguageModel(models_by_name(name), word_tokenizer, tokens_per_batch=tokens_per_batch)
    assert isinstance(scorer._engine, PackedEngine)
    np.testing.assert_allclose(scorer.score_labels(prompts, LABELS), expected, rtol=0, atol=EXACT)


def test_threads_that_share_a_model_get_what_is_theirs(
    models_by_name: Callable[[str], PreTrainedModel], word_tokenizer: PreTrainedTokenizerBase
) -> None:
    """As requests to a served labeller do."""
    scorer = CausalLanguageModel(models_by_name("llama"), word_tokenizer)
    requests = [[SHOT * (number % 3) + FRAME.format("here is " * number)] for number in range(1, 13)] * 4
    alone = [scorer.score_labels(prompts, LABELS) for prompts in requests]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda prompts: scorer.score_labels(prompts, LABELS), requests))
    np.testing.assert_allclose(np.concatenate(together), np.concatenate(alone), rtol=0, atol=EXACT)


def test_tokenizers_and_label_token_options(
    tokenizer: PreTrainedTokenizerBase,
    models_by_name: Callable[[str], PreTrainedModel],
    plain_scores: PlainScores,
) -> None:
    plain = models_by_name("llama")
    for option in ("joint", "separate"):
        scorer = CausalLanguageModel(models_by_name("llama"), tokenizer, label_tokens=option)
        scores = scorer.score_labels(PROMPTS, LABELS)
        expected = plain_scores(plain, tokenizer, PROMPTS, LABELS, separate=option == "separate")
        np.testing.assert_allclose(scores, expected, rtol=0, atol=EXACT)


words = st.sampled_from(["water", "is", "timu", "2024", "Новости", "القدم", "x,y", "here", "-", "mechi"])
texts = st.lists(words, min_size=1, max_size=8).map(" ".join)
label_lists = st.lists(texts, min_size=1, max_size=5, unique=True)


@st.composite
def prompt_lists(draw: st.DrawFn) -> list[str]:
    """Prompts of which some begin alike, in every depth, and some are the beginning of others."""
    shots = draw(st.lists(texts.map(lambda text: f"{SHOT[:40]}{text}\n"), min_size=1, max_size=3))
    counts = draw(st.lists(st.integers(0, len(shots)), min_size=1, max_size=6))
    return ["".join(shots[:count]) + draw(texts) for count in counts]


@pytest.fixture(scope="module")
def scorers(
    models_by_name: Callable[[str], PreTrainedModel], word_tokenizer: PreTrainedTokenizerBase
) -> dict[str, tuple[PreTrainedModel, CausalLanguageModel]]:
    return {
        name: (models_by_name(name), CausalLanguageModel(models_by_name(name), word_tokenizer))
        for name in ("llama", "mistral", "bloom")
    }


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["llama", "llama", "mistral", "bloom"]),
    prompts=prompt_lists(),
    labels=label_lists,
    tokens_per_batch=st.sampled_from([1, 50, 150, 5000]),
)
def test_any_prompts_labels_and_batches(
    name: str,
    prompts: list[str],
    labels: list[str],
    tokens_per_batch: int,
    scorers: dict[str, tuple[PreTrainedModel, CausalLanguageModel]],
    word_tokenizer: PreTrainedTokenizerBase,
    plain_scores: PlainScores,
) -> None:
    plain, scorer = scorers[name]
    scorer._budget.tokens = tokens_per_batch
    scores = scorer.score_labels(prompts, labels)
    expected = plain_scores(plain, word_tokenizer, prompts, labels)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=EXACT)


@pytest.fixture
def scorer(
    models_by_name: Callable[[str], PreTrainedModel], word_tokenizer: PreTrainedTokenizerBase
) -> CausalLanguageModel:
    return CausalLanguageModel(models_by_name("llama"), word_tokenizer, max_tokens=200)


def test_bfloat16_stays_near_float32(
    scorer: CausalLanguageModel,
    models_by_name: Callable[[str], PreTrainedModel],
    word_tokenizer: PreTrainedTokenizerBase,
) -> None:
    half = CausalLanguageModel(models_by_name("llama").bfloat16(), word_tokenizer)
    assert isinstance(half._engine, PackedEngine)
    difference = half.score_labels(PROMPTS, LABELS) - scorer.score_labels(PROMPTS, LABELS)
    assert np.abs(difference).mean() < 0.1


def test_statistics_count_work_and_savings(scorer: CausalLanguageModel) -> None:
    scorer.score_labels(PROMPTS, LABELS)
    statistics = scorer.statistics
    assert (statistics.prompts, statistics.scored, statistics.batches) == (6, 5, 1)
    lengths = [1 + count for count in scorer.count_tokens(list(dict.fromkeys(PROMPTS)))]
    assert statistics.tokens == sum(lengths)
    assert statistics.tokens_shared > 3 * scorer.count_tokens([SHOT])[0] - 10
    assert statistics.tokens_computed > statistics.tokens - statistics.tokens_shared
    assert statistics.tokens_computed == round_up(statistics.tokens_computed - statistics.tokens_padding)


def test_padding_is_counted_where_there_is_some(
    models_by_name: Callable[[str], PreTrainedModel], word_tokenizer: PreTrainedTokenizerBase
) -> None:
    padded = CausalLanguageModel(models_by_name("bloom"), word_tokenizer)
    assert isinstance(padded._engine, PaddedEngine)
    prompts = ["water is", "water is here and is here and is"]
    padded.score_labels(prompts, LABELS[:1])
    short, long = (1 + count for count in padded.count_tokens(prompts))
    assert padded.statistics.tokens_padding == long - short
    assert padded.statistics.tokens == short + long


def test_no_prompts(scorer: CausalLanguageModel) -> None:
    assert scorer.score_labels([], LABELS).shape == (0, len(LABELS))
    assert scorer.statistics == ScoringStatistics()


def test_refusals(scorer: CausalLanguageModel) -> None:
    with pytest.raises(LabelWordError, match="' '"):
        scorer.score_labels(["a prompt"], ["sports", " "])
    with pytest.raises(LabelWordError, match="at least one label"):
        scorer.score_labels(["a prompt"], [])
    with pytest.raises(DataError, match="tokens with its label words, but the model takes 200"):
        scorer.score_labels([SHOT * 20], LABELS)


def test_max_tokens_is_bounded_by_positions(
    scorer: CausalLanguageModel,
    models_by_name: Callable[[str], PreTrainedModel],
    word_tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert scorer.max_tokens == 200
    assert CausalLanguageModel(models_by_name("gpt2"), word_tokenizer, max_tokens=9999).max_tokens == 512


class _SmallMemory(PackedEngine):
    """Runs out of memory with more than two prompts."""

    most = 2

    def run(self, items: Sequence[TokenizedPrompt], batch: Batch) -> list[NDArray[np.float64]]:
        if len(batch.prompts) > self.most:
            raise torch.OutOfMemoryError("no memory left")
        return super().run(items, batch)


def test_budget_halves_when_memory_ends(
    scorer: CausalLanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    expected = scorer.score_labels(PROMPTS, LABELS)
    scorer._engine = _SmallMemory(scorer.model)
    with caplog.at_level(logging.WARNING):
        scores = scorer.score_labels(PROMPTS, LABELS)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=EXACT)
    assert [record.message for record in caplog.records if "out of memory" in record.message] == [
        record.message for record in caplog.records
    ]
    assert len(caplog.records) == 1


def test_memory_for_not_even_one_prompt(scorer: CausalLanguageModel) -> None:
    engine = _SmallMemory(scorer.model)
    engine.most = 0
    scorer._engine = engine
    with pytest.raises(ModelError, match="does not suffice for one text"):
        scorer.score_labels(PROMPTS, LABELS)
