"""Tiny random models and tokenizers, and the plain computation to compare with.

Weights are large, so that attention to a wrong token or a wrong position changes every result.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    XGLMConfig,
)

TEXTS = [
    'The topic of the news "water is here" is science/technology',
    'The topic of the news "Timu ilishinda mechi" is sports',
    'The topic of the news "Новости о здоровье" is health',
    'The topic of the news "مباراة كرة القدم 2024" is travel',
    "politics politician geography entertainment",
]
VOCABULARY = 300

PlainScores = Callable[..., NDArray[np.float64]]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _train(tokenizer: Tokenizer, alphabet: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=specials, initial_alphabet=list(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def words_tokenizer() -> PreTrainedTokenizerBase:
    """Words, punctuation and digits apart, as the mini models have it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    return _train(tokenizer)


def bytes_tokenizer() -> PreTrainedTokenizerBase:
    """Bytes, as GPT-2 and Llama 3 have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _train(tokenizer, pre_tokenizers.ByteLevel.alphabet())


def whole_tokenizer() -> PreTrainedTokenizerBase:
    """Merges across blanks, as Llama 2's allows: the prompt's last tokens depend on the label."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _train(tokenizer)


TOKENIZERS = {"words": words_tokenizer, "bytes": bytes_tokenizer, "whole": whole_tokenizer}


@pytest.fixture(scope="session", params=sorted(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return TOKENIZERS[request.param]()


@pytest.fixture(scope="session")
def word_tokenizer() -> PreTrainedTokenizerBase:
    return words_tokenizer()


_SIZE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.4,
}
_GROUPED: dict[str, Any] = {**_SIZE, "num_key_value_heads": 2, "head_dim": 8}

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_GROUPED),
    "mistral": lambda: MistralConfig(**_GROUPED, sliding_window=12),
    "gemma": lambda: GemmaConfig(**_GROUPED),
    "gemma2": lambda: Gemma2Config(**_GROUPED, sliding_window=12),
    "gemma3": lambda: Gemma3TextConfig(**_GROUPED, sliding_window=12),
    "qwen2": lambda: Qwen2Config(**_SIZE, num_key_value_heads=2),
    # A window that is longer than what engines are tried with, and that attention is not told of.
    "qwen2_moe": lambda: Qwen2MoeConfig(
        **_SIZE,
        num_key_value_heads=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
        use_sliding_window=True,
        sliding_window=40,
        max_window_layers=2,
    ),
    "qwen3": lambda: Qwen3Config(**_GROUPED),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=512, initializer_range=0.4
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**_SIZE),
    "bloom": lambda: BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.4
    ),
    "xglm": lambda: XGLMConfig(
        vocab_size=VOCABULARY, d_model=32, ffn_dim=48, num_layers=2, attention_heads=4, init_std=0.4
    ),
    "dynamic_rope": lambda: LlamaConfig(
        **_GROUPED,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    ),
}


def make_model(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[name]())
    model.eval()
    return model


@pytest.fixture(scope="session")
def models_by_name() -> Callable[[str], PreTrainedModel]:
    """A new model each time: scorers change a model's attention."""
    return make_model


@pytest.fixture(scope="session")
def language_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language_model")
    make_model("llama").save_pretrained(folder)
    words_tokenizer().save_pretrained(folder)
    return folder


def _common(left: list[int], right: list[int]) -> int:
    return sum(1 for at in range(min(len(left), len(right))) if left[: at + 1] == right[: at + 1])


@pytest.fixture(scope="session")
def plain_scores() -> PlainScores:
    """One prompt, one label, no batching, no cache: log-likelihoods [P, L] in nats."""

    @torch.inference_mode()
    def score(
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        labels: Sequence[str],
        separate: bool = False,
    ) -> NDArray[np.float64]:
        rows = []
        for prompt in prompts:
            context = tokenizer(prompt)["input_ids"]
            wholes = [tokenizer(f"{prompt} {label}")["input_ids"] for label in labels]
            if separate:
                tails = [tokenizer(f" {label}", add_special_tokens=False)["input_ids"] for label in labels]
                wholes = [context + tail for tail in tails]
            start = min(_common(context, whole) for whole in wholes)
            row = []
            for whole in wholes:
                logits = model(input_ids=torch.tensor([whole])).logits[0].double()
                log_probs = torch.log_softmax(logits, dim=-1)
                row.append(sum(float(log_probs[at - 1, whole[at]]) for at in range(start, len(whole))))
            rows.append(row)
        return np.array(rows)

    return score
