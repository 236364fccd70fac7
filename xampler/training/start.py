"""The encoder that training starts from, as a sentence-transformers model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Pooling,
    Transformer,
    WeightedLayerPooling,
)
from torch import nn

from xampler.errors import ModelError
from xampler.models.build import EncoderConfig, encoder_folder
from xampler.models.encoder import TransformerEncoder
from xampler.models.pooling import SentenceLayout, read_sentence_layout

PROMPT = "text"  # name of the prefix in the saved model


def load_starting_encoder(config: EncoderConfig) -> SentenceTransformer:
    """Load ``config`` with trainable weights; what is saved later loads as a plain encoder folder.

    Its vectors are those of :func:`xampler.models.build.load_encoder`: a folder in sentence-transformers'
    layout keeps its own modules, but for the pooling and the layer that are given, and ``max_seq_length``
    is the smallest of ``max_tokens``, the layout's limit and the model's positions.

    Raises:
        ModelError: the model cannot be found or loaded, has no safetensors weights, or has no layer of
            that number.
    """
    folder = encoder_folder(config)
    with _loading(config.model):
        layout = read_sentence_layout(folder)
        transformer, *others = _modules(folder, config)
    longest = _max_tokens(transformer, layout, config)
    modules = [transformer, *_chosen(transformer, others, layout, config)]
    model = SentenceTransformer(modules=modules, device="cpu")
    model.max_seq_length = longest
    if config.prefix:
        model.prompts = {PROMPT: config.prefix}
        model.default_prompt_name = PROMPT
    return model


def _modules(folder: Path, config: EncoderConfig) -> list[Any]:
    trust: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    # The optimiser's small steps would be lost in a checkpoint's bfloat16; the engine has its own copy.
    weights = {"use_safetensors": True, "dtype": torch.float32}
    if (folder / "modules.json").is_file():
        return list(SentenceTransformer(str(folder), device="cpu", model_kwargs=weights, **trust))
    options = {"model_kwargs": weights | trust, "config_kwargs": trust, "processor_kwargs": trust}
    return [Transformer(str(folder), **options)]


def _chosen(
    transformer: Transformer, others: list[Any], layout: SentenceLayout, config: EncoderConfig
) -> list[nn.Module]:
    """The modules after the transformer, with layer and pooling as the config has them."""
    width = transformer.get_embedding_dimension()
    mixing = [module for module in others if isinstance(module, WeightedLayerPooling)]
    if isinstance(config.layer, int):
        mixing = []
        _keep_layers(transformer, config.layer)
    elif config.layer == "weighted" and not mixing:
        layers = transformer.auto_model.config.num_hidden_layers
        mixing = [WeightedLayerPooling(width, num_hidden_layers=layers, layer_start=1)]
    transformer.auto_model.config.output_hidden_states = bool(mixing)
    pooling = Pooling(width, pooling_mode=config.pooling or layout.pooling)
    after = [module for module in others if not isinstance(module, WeightedLayerPooling | Pooling)]
    return [*mixing, pooling, *after]


def _max_tokens(transformer: Transformer, layout: SentenceLayout, config: EncoderConfig) -> int:
    """As many as the encoder takes that is loaded from what is trained."""
    limits = SentenceLayout(max_tokens=layout.max_tokens)
    tokenizer: Any = transformer.tokenizer  # None for models of images alone
    return TransformerEncoder(
        transformer.auto_model, tokenizer, limits, max_tokens=config.max_tokens
    ).max_tokens


def _keep_layers(transformer: Transformer, layers: int) -> None:
    """The output of layer ``layers`` becomes the last one: those after it are dropped."""
    model = transformer.auto_model
    encoder: Any = getattr(model, "encoder", None)
    stack = getattr(encoder, "layer", None)
    if not isinstance(stack, nn.ModuleList):
        raise ModelError(
            f"train.encoder.layer: a layer cannot be chosen for {model.config.model_type}; leave layer out"
        )
    if not 0 < layers <= len(stack):
        raise ModelError(
            f"train.encoder.layer: the model has no layer {layers} to train; give 1 to {len(stack)} or leave "
            "layer out"
        )
    encoder.layer = stack[:layers]
    model.config.num_hidden_layers = layers


@contextmanager
def _loading(model: str) -> Iterator[None]:
    """Errors of libraries about a model's files as one sentence that names the model."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"train.encoder: model {model!r} cannot be loaded: {reason} (expected: config, tokenizer and "
            "safetensors weights)"
        ) from error
