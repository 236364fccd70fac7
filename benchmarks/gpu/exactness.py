"""How far log-likelihoods on the device are off the plain computation."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from benchmarks import markdown_table
from benchmarks.gpu.device import OUT_OF_MEMORY, free_memory, unless_out_of_memory
from benchmarks.gpu.scoring import make_prompts, task_of
from benchmarks.gpu.shapes import (
    MINI,
    TINY,
    Setting,
    converted,
    load_tokenizer,
    make_llama,
    with_same_weights,
)
from benchmarks.scoring import PlainModel
from xampler.models.causal_lm import CausalLanguageModel

_HEADER = ("model", "computed", "largest, nats", "mean, nats", "other label")

Scores = NDArray[np.float64]  # [P, L]
Compute = Callable[[PreTrainedModel, Sequence[str]], Scores]


def run_exactness(setting: Setting) -> str:
    """Small models against the plain loop in float64, the large one against float32; a table in Markdown."""
    tokenizer = load_tokenizer()
    words = task_of(setting).label_words
    ways: dict[str, Compute] = {
        "plain loop": lambda model, prompts: _score_plainly(model, tokenizer, words, prompts),
        "xampler": lambda model, prompts: _score(model, tokenizer, words, prompts),
    }
    prompts = [
        prompt
        for (demonstrations, _), shared in zip(setting.shape.prompts, (False, True), strict=True)
        for prompt in make_prompts(setting, demonstrations, setting.shape.checked, shared=shared)
    ]
    cpu = torch.device("cpu")
    models = {
        "Llama of 2 layers": make_llama(TINY.llama, cpu, torch.float32),
        "mini": AutoModelForCausalLM.from_pretrained(MINI, dtype=torch.float32),
    }
    rows = [cells for name, model in models.items() for cells in _small(setting, name, model, ways, prompts)]
    return markdown_table(_HEADER, [*rows, *_large(setting, ways, prompts[: setting.shape.checked])])


def _small(
    setting: Setting, name: str, model: PreTrainedModel, ways: dict[str, Compute], prompts: list[str]
) -> list[list[str]]:
    """In float32 on CPU and device, in bfloat16 on the device."""
    exact = ways["plain loop"](converted(model, "cpu", torch.float64), prompts)
    places = dict.fromkeys(
        [("cpu", torch.float32), (setting.device.type, torch.float32), (setting.device.type, torch.bfloat16)]
    )
    rows = []
    for device, dtype in places:
        for way, compute in ways.items():
            scores = compute(converted(model, device, dtype), prompts)
            rows.append(_cells(name, f"{way}, {_name(dtype)}, {device}", scores, exact))
    return rows


def _large(setting: Setting, ways: dict[str, Compute], prompts: list[str]) -> list[list[str]]:
    """In bfloat16, of weights that are of this type, beside ours in float32."""
    name = f"{setting.shape.llama.layers} layers, {setting.shape.llama.hidden:,} wide"

    def compare() -> list[list[str]]:
        model = make_llama(setting.shape.llama, setting.device, torch.bfloat16)
        computed = {way: compute(with_same_weights(model), prompts) for way, compute in ways.items()}
        for weight in model.parameters():
            weight.data = weight.data.float()
        exact = ways["xampler"](model, prompts)
        return [
            _cells(name, f"{way}, bfloat16, against xampler in float32", scores, exact)
            for way, scores in computed.items()
        ]

    rows = unless_out_of_memory(compare)
    free_memory()
    return [[name, "float32 beside bfloat16", OUT_OF_MEMORY, "", ""]] if rows is None else rows


def _score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: Sequence[str], prompts: Sequence[str]
) -> Scores:
    return CausalLanguageModel(model, tokenizer).score_labels(prompts, words)


def _score_plainly(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: Sequence[str], prompts: Sequence[str]
) -> Scores:
    return PlainModel(model, tokenizer, words).score_one_by_one(prompts)


def _cells(model: str, way: str, scores: Scores, exact: Scores) -> list[str]:
    off = np.abs(scores - exact)
    other = (scores.argmax(axis=1) != exact.argmax(axis=1)).mean()
    return [model, way, f"{off.max():.1e}", f"{off.mean():.1e}", f"{other:.1%}"]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
