"""The real models' shapes, tiny ones to try the measurements on a CPU, and how much each is given."""

import copy
from dataclasses import dataclass, replace

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from benchmarks.embedding import GLOT500_ROWS
from benchmarks.scoring import MALA_ROWS
from xampler.mini.data import ParallelCorpus
from xampler.models.source import MINI_MODELS

_POSITIONS = 4096
MINI = MINI_MODELS / "language_model"


@dataclass(frozen=True)
class LlamaShape:
    """Of a Llama with a head of its own."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    rows: int


@dataclass(frozen=True)
class EncoderShape:
    """Of an XLM-R; ``hidden`` is a multiple of its twelve heads."""

    hidden: int
    layers: int
    rows: int


@dataclass(frozen=True)
class Shape:
    """Both models, and what they are given."""

    llama: LlamaShape
    encoder: EncoderShape
    product_tokens: int  # rows of the matrices whose products give the ceiling
    prompts: tuple[tuple[int, int], ...]  # demonstrations, and prompts with so many
    budgets: tuple[int, ...]  # tokens per batch
    lengths: tuple[tuple[int, int, int], ...]  # layers, demonstrations and prompts of about the same work
    checked: int  # prompts of either kind whose log-likelihoods are compared
    texts: int  # to embed
    batches: tuple[int, ...]  # of training, as far as memory goes
    text_tokens: int  # of every text in training


FULL = Shape(
    llama=LlamaShape(hidden=4096, layers=32, heads=32, intermediate=11008, rows=MALA_ROWS),
    encoder=EncoderShape(hidden=768, layers=12, rows=GLOT500_ROWS),
    product_tokens=16384,
    prompts=((1, 1600), (10, 240)),
    budgets=(2048, 4096, 8192, 16384, 32768, 65536),
    lengths=((32, 1, 1200), (8, 7, 1200)),
    checked=12,
    texts=8000,
    batches=(16, 32, 64, 128, 256, 512, 1024),
    text_tokens=256,
)
TINY = Shape(
    llama=LlamaShape(hidden=64, layers=2, heads=2, intermediate=128, rows=32_000),
    encoder=EncoderShape(hidden=24, layers=1, rows=250_002),  # as many rows as its tokenizer may have
    product_tokens=64,
    prompts=((1, 8), (3, 4)),
    budgets=(512, 2048),
    lengths=((4, 1, 8), (2, 3, 8)),
    checked=1,
    texts=40,
    batches=(2, 4),
    text_tokens=16,
)


@dataclass(frozen=True)
class Setting:
    """What every section needs to know."""

    shape: Shape
    device: torch.device
    pool: ParallelCorpus
    tests: ParallelCorpus


def load_tokenizer() -> PreTrainedTokenizerBase:
    """The mini language model's own."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(MINI)
    return tokenizer


def make_llama(
    shape: LlamaShape, device: torch.device, dtype: torch.dtype, layers: int | None = None
) -> PreTrainedModel:
    """Random weights, made on the device and in the type that they are for."""
    shape = shape if layers is None else replace(shape, layers=layers)
    config = LlamaConfig(
        vocab_size=shape.rows,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=_POSITIONS,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model


def with_same_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Another model around the same tensors: its attention and its hooks are its own."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


def converted(model: PreTrainedModel, device: str | torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A copy with weights of that type; buffers keep theirs, as angles of positions need float32."""
    copied = copy.deepcopy(model)
    torch.nn.Module.to(copied, device)
    for weight in copied.parameters():
        weight.data = weight.data.to(dtype)
    return copied
