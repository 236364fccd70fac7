"""The mini language model: a Llama whose weights start as a weighted vote of the demonstrations.

At the start, by construction:

* a word's embedding is its topic vector; a template or label token's is an identity;
* layer 1 lets each token average the words of its own line, through a window made of rotary frequencies;
* layer 2 lets a line's last word look at the label tokens before it, at those with similar lines most, and
  copies the identities found.

Training (:mod:`xampler.mini.training`) adjusts all of it but the embeddings.

Shape suffixes: V vocabulary, D vector dimensions, I identity dimensions, H hidden, F rotary frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from xampler.config import Config
from xampler.mini.tokenizer import BOS_ID, EOS_ID, PAD_ID

FILLERS = 2  # hidden dimensions: "is a word", and what brings an embedding to norm sqrt(H)


class LanguageModelConfig(Config):
    """Shape of the language model, and the constants of its start."""

    hidden: int = 160
    identity: int = 40  # dimensions for template and label tokens, at least as many as there are such tokens
    heads: int = 2
    head_dim: int = 128  # rotary pairs 28-63 turn so slowly that they compare contents at any distance
    layers: int = 2
    feed_forward: int = 256
    max_positions: int = 4_096
    rope_theta: float = 1e7
    median_norm: float = 6.0  # of word vectors, beside norm sqrt(160) of a whole embedding
    largest_norm: float = 11.0
    word_flag: float = 3.0
    window: int = 36  # tokens: a text cut to 32 and the closing quote, "is" and the label
    window_inside: float = 3.0  # nats; other tokens than words have 0
    window_outside: float = -4.0
    pooled_scale: float = 50.0  # the average outweighs the identity: RMSNorm then scales it to one length
    sharpness: float = 8.0  # nats per unit of cosine between two lines
    label_bias: float = 20.0  # nats by which label tokens precede all others in layer 2
    copy_scale: float = 60.0
    word_damping: float = 30.0
    final_gain: float = 0.15  # logits of about 16 for a unanimous vote

    @property
    def vector(self) -> int:
        """Dimensions of a word's topic vector."""
        return self.hidden - self.identity - FILLERS


def word_embeddings(
    vectors_VD: NDArray[np.float32], identity_ids: Sequence[int], config: LanguageModelConfig
) -> NDArray[np.float32]:
    """Embeddings ``[V, H]`` of norm ``sqrt(H)``, so that RMSNorm keeps them; padding is 0.

    Args:
        vectors_VD: topic vectors, D = ``config.vector``.
        identity_ids: template and label tokens.
    """
    norms_V1 = np.linalg.norm(vectors_VD, axis=1, keepdims=True)
    used = norms_V1[norms_V1 > 0]
    scale = config.median_norm / float(np.median(used)) if used.size else 1.0
    shrink_V1 = np.minimum(1.0, config.largest_norm / np.maximum(norms_V1 * scale, 1e-9))
    embeddings_VH = np.zeros((len(vectors_VD), config.hidden), dtype=np.float32)
    embeddings_VH[:, : config.vector] = vectors_VD * scale * shrink_V1
    embeddings_VH[:, -2] = config.word_flag
    room_V = config.hidden - (embeddings_VH**2).sum(axis=1)
    embeddings_VH[:, -1] = np.sqrt(np.maximum(room_V, 0.0))
    ids = list(identity_ids)
    embeddings_VH[ids] = 0.0
    embeddings_VH[ids, config.vector + np.arange(len(ids))] = np.sqrt(config.hidden)
    embeddings_VH[PAD_ID] = 0.0
    return embeddings_VH


def build_language_model(
    embeddings_VH: NDArray[np.float32],
    identity_ids: Sequence[int],
    label_ids: Sequence[int],
    config: LanguageModelConfig,
    seed: int,
) -> LlamaForCausalLM:
    """A Llama that votes.

    Args:
        embeddings_VH: of :func:`word_embeddings`.
        identity_ids: as given there.
        label_ids: those of ``identity_ids`` that can begin a label.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_architecture(len(embeddings_VH), config))
    model.eval()
    places = {token: config.vector + place for place, token in enumerate(identity_ids)}
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.from_numpy(embeddings_VH))
        for layer in model.model.layers:
            _start_quietly(layer)
        attentions = [part for part in model.modules() if isinstance(part, LlamaAttention)]
        _average_lines(attentions[0], config)
        _vote(attentions[-1], [places[token] for token in label_ids], places[BOS_ID], config)
        model.model.norm.weight.zero_()
        model.model.norm.weight[config.vector : -FILLERS] = config.final_gain
        model.model.norm.weight[-1] = config.final_gain
    return model


def _architecture(vocab_size: int, config: LanguageModelConfig) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.hidden,
        intermediate_size=config.feed_forward,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
    )


def _start_quietly(layer: torch.nn.Module) -> None:
    """A layer that adds nothing to its input yet, but can learn to."""
    for name, parameter in layer.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.zero_()
        elif parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.02)


def rotary_window(config: LanguageModelConfig) -> tuple[Tensor, Tensor]:
    """Query components of each rotary pair, both ``[F]``, that make scores fall off behind the window.

    With the key at 1 on the first of each pair, the score of a token ``d`` back is
    ``sum_f a_f cos(w_f d) - b_f sin(w_f d)``, in nats; ``a`` and ``b`` are fitted to the wanted shape.
    """
    pairs = config.head_dim // 2
    speeds_F = config.rope_theta ** (-np.arange(pairs) / pairs)
    distances = np.arange(1_200.0)[:, None]
    inside = distances[:, 0] < config.window
    wanted = np.where(inside, config.window_inside, config.window_outside)
    weight = np.where(distances[:, 0] < 600, 1.0, 0.1)
    weight[inside] = 10.0  # all words of a line count alike; far away anything low will do
    edge = ~inside & (distances[:, 0] < config.window + 8)
    weight[edge] = 0.05  # template tokens lie there: the shape is free to fall
    waves = np.concatenate([np.cos(distances * speeds_F), -np.sin(distances * speeds_F)], axis=1)
    normal = (waves * weight[:, None]).T @ waves + 0.05 * np.eye(2 * pairs)
    fitted = np.linalg.solve(normal, waves.T @ (weight * wanted))
    return torch.from_numpy(fitted[:pairs]).float(), torch.from_numpy(fitted[pairs:]).float()


def _average_lines(attention: LlamaAttention, config: LanguageModelConfig) -> None:
    """Identity tokens average the word vectors within the window; each head gives its share."""
    pairs = config.head_dim // 2
    cosine_F, sine_F = rotary_window(config)
    identities = slice(config.vector, config.hidden - FILLERS)
    share = config.pooled_scale / config.heads
    for head in range(config.heads):
        first = head * config.head_dim
        unit = np.sqrt(config.head_dim / config.hidden)  # undoes the score's scale and the identity's length
        attention.q_proj.weight[first : first + pairs, identities] = unit * cosine_F[:, None]
        attention.q_proj.weight[first + pairs : first + 2 * pairs, identities] = unit * sine_F[:, None]
        attention.k_proj.weight[first : first + pairs, -2] = 1.0 / config.word_flag
        _copy_block(attention, first, range(config.vector), share)


def _vote(attention: LlamaAttention, labels: Sequence[int], sink: int, config: LanguageModelConfig) -> None:
    """Label tokens with similar lines get the attention, and their identities are copied."""
    pairs = config.head_dim // 2
    slow = [pair for pair in range(pairs) if config.rope_theta ** (-pair / pairs) < 1e-3][:-1]
    compared = [*slow, *(pair + pairs for pair in slow)][: config.vector]
    unit = np.sqrt(np.sqrt(config.head_dim) / config.hidden)  # per side: score scale, and RMSNorm's length
    identity = np.sqrt(config.hidden) * np.sqrt(config.hidden) / config.pooled_scale / 2.0
    for head in range(config.heads):
        first = head * config.head_dim
        for place, row in enumerate(compared):
            attention.q_proj.weight[first + row, place] = unit * np.sqrt(config.sharpness)
            attention.k_proj.weight[first + row, place] = unit * np.sqrt(config.sharpness)
        bias = np.sqrt(config.label_bias * np.sqrt(config.head_dim)) / identity
        attention.q_proj.weight[first + pairs - 1, config.vector : -FILLERS] = bias
        attention.k_proj.weight[first + pairs - 1, [*labels]] = bias
        attention.k_proj.weight[first + pairs - 1, sink] = 0.05 * bias
        _copy_block(attention, first, labels, config.copy_scale / config.heads / identity)
        # the filler that only words have turns against them: an answer is a label token, hardly ever a word
        damping = config.word_damping / config.heads / identity
        attention.o_proj.weight[-1, first : first + len(labels)] = -damping


def _copy_block(attention: LlamaAttention, first: int, places: Sequence[int], scale: float) -> None:
    """One head's values are the given hidden dimensions, written back to where they came from."""
    for row, place in enumerate(places):
        attention.v_proj.weight[first + row, place] = 1.0
        attention.o_proj.weight[place, first + row] = scale
