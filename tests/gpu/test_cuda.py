"""The same figures on a CUDA device as on the CPU, with the models that ship."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from xampler.models.build import EncoderConfig, LanguageModelConfig, load_encoder, load_language_model
from xampler.models.engines import PackedEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

GOLDEN = Path(__file__).parents[1] / "data" / "golden_log_likelihoods.json"  # see test_golden.py
LABELS = ["science/technology", "travel", "politics", "sports", "health", "entertainment", "geography"]
SENTENCES = [
    "The team won the final match by two goals.",
    "Timu ilishinda mechi ya mwisho kwa mabao mawili.",
    "Die Ärztin verschrieb ihm ein neues Medikament.",
    "数学の問題を解く新しい方法が見つかった。",
]
SHOTS = "".join(f'The topic of the news "{text}" is sports\n' for text in SENTENCES)
# Each by itself, behind the same demonstrations, and one whose tokens all stand in another.
PROMPTS = [f"{shots}The topic of the news {text} is" for shots in ("", SHOTS) for text in SENTENCES] + [
    SHOTS[:-1]
]


def score(device: str, dtype: str) -> np.ndarray:
    config = LanguageModelConfig.model_validate({"model": "mini", "device": device, "dtype": dtype})
    return load_language_model(config).score_labels(PROMPTS, LABELS)


def embed(device: str, dtype: str) -> np.ndarray:
    config = EncoderConfig.model_validate({"model": "mini", "device": device, "dtype": dtype})
    return load_encoder(config).encode(SENTENCES)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.5)])
def test_scores_are_the_golden_ones(dtype: str, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    config = LanguageModelConfig.model_validate({"model": "mini", "device": "cuda", "dtype": dtype})
    scores = load_language_model(config).score_labels(golden["prompts"], golden["labels"])
    np.testing.assert_allclose(scores, golden["log_likelihoods"], rtol=0, atol=tolerance)


def test_scores_in_float32_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    np.testing.assert_allclose(score("cuda", "float32"), score("cpu", "float32"), atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_prompts_are_packed(dtype: str) -> None:
    config = LanguageModelConfig.model_validate({"model": "mini", "device": "cuda", "dtype": dtype})
    scorer = load_language_model(config)
    scorer.score_labels(PROMPTS, LABELS)
    assert isinstance(scorer._engine, PackedEngine)
    assert scorer.statistics.tokens_shared > 0


def test_the_budget_becomes_what_fits() -> None:
    prompts = [f"{SHOTS}Number {number} of the news is" for number in range(2000)]
    scorer = load_language_model(LanguageModelConfig(model="mini", device="cuda", max_tokens=2047))
    before = scorer._budget.tokens
    scorer.score_labels(prompts, LABELS)
    assert scorer._budget.tokens > before


def test_scores_in_bfloat16_are_near() -> None:
    half, whole = score("cuda", "bfloat16"), score("cpu", "float32")
    np.testing.assert_allclose(half, whole, atol=0.5)  # 0.13 at most on a CPU


def test_vectors_in_float32_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    np.testing.assert_allclose(embed("cuda", "float32"), embed("cpu", "float32"), atol=1e-3)


def test_vectors_in_bfloat16_point_the_same_way() -> None:
    half, whole = embed("cuda", "bfloat16"), embed("cpu", "float32")
    norms = np.linalg.norm(half, axis=1) * np.linalg.norm(whole, axis=1)
    assert ((half * whole).sum(axis=1) / norms > 0.99).all()


def test_scores_with_a_device_map_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    spread = load_language_model(LanguageModelConfig(model="mini", device_map="auto"))
    np.testing.assert_allclose(spread.score_labels(PROMPTS, LABELS), score("cpu", "float32"), atol=1e-3)


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_quantised_scores_are_near(kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    config = {"model": "mini", "dtype": "bfloat16", "quantization": kind}
    quantised = load_language_model(LanguageModelConfig.model_validate(config))
    difference = quantised.score_labels(PROMPTS, LABELS) - score("cpu", "float32")
    assert np.abs(difference).mean() < 1.0
