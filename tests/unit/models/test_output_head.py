import ctypes
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from xampler.errors import ModelError
from xampler.models import output_head
from xampler.models.causal_lm import CausalLanguageModel
from xampler.models.output_head import OutputHead


class _Config:
    def __init__(self, **values: float) -> None:
        self.__dict__.update(values)

    def get_text_config(self) -> "_Config":
        return self


class _Model(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module, **config: float) -> None:
        super().__init__()
        self.layer = layer
        self.config = _Config(**config)

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.layer


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "config", [{}, {"final_logit_softcapping": 2.0}, {"logit_scale": 0.3}, {"logits_scaling": 4.0}]
)
def test_log_probs_equal_log_softmax(
    bias: bool, config: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(output_head._COLUMNS, "cpu", 32)  # the last block has a single column
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 97, bias=bias)
    hidden = torch.randn(5, 8) * 3
    logits = layer(hidden) * config.get("logit_scale", 1.0) / config.get("logits_scaling", 1.0)
    cap = config.get("final_logit_softcapping")
    expected = torch.log_softmax(logits if cap is None else torch.tanh(logits / cap) * cap, dim=-1)
    head = OutputHead(_Model(layer, **config))  # type: ignore[arg-type]  # only what the head looks at
    with torch.inference_mode():
        log_probs = head.log_probs(hidden, [4, 0, 0, 2], [96, 1, 50, 3])
    assert log_probs.dtype == torch.float64
    torch.testing.assert_close(log_probs.float(), expected[[4, 0, 0, 2], [96, 1, 50, 3]], atol=1e-5, rtol=0)


def test_unknown_output_layer_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="_Model: its output layer"):
        OutputHead(_Model(torch.nn.Identity()))  # type: ignore[arg-type]  # only what the head looks at


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read as Linux tells it")
def test_memory_stays_flat_with_the_vocabulary_of_mala_500(word_tokenizer: PreTrainedTokenizerBase) -> None:
    rows = 260_164
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    scorer = CausalLanguageModel(LlamaForCausalLM(config), word_tokenizer)
    prompts = [f"water is here and {number} is" for number in range(100, 500)]
    _forget_most_memory()
    before = _memory_kept()
    for first in (0, 80):  # whatever is kept for good is there from here on
        scorer.score_labels(prompts[first : first + 80], ["sports", "science/technology"])
    logits_of_a_call = scorer.statistics.tokens * rows * 4
    assert _memory("VmHWM") - before < logits_of_a_call / 2
    before = _memory_kept()
    for first in (160, 240, 320):
        scorer.score_labels(prompts[first : first + 80], ["sports", "science/technology"])
    assert _memory_kept() - before < logits_of_a_call / 20


def _forget_most_memory() -> None:
    """Count VmHWM anew from what is held now: other tests may have held more."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _memory_kept() -> int:
    """Resident memory without what is free and waits to be used again, of which other tests leave some."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    return _memory("VmRSS")


def _memory(name: str) -> int:
    """Bytes: VmRSS that this process holds now, VmHWM that it held at most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])
