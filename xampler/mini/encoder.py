"""The mini encoder: an XLM-R whose weights start at a closed form.

One attention layer averages the token vectors. Training (:mod:`xampler.mini.contrast`) refines it.

Shape suffixes: B sentences of a batch, T tokens, V vocabulary, D vector dimensions, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import XLMRobertaConfig, XLMRobertaModel
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer

from xampler.config import Config
from xampler.mini.tokenizer import BOS_ID, EOS_ID, PAD_ID

FILLERS = 2  # hidden dimensions that give each embedding mean 0 and one norm, so that LayerNorm keeps it


class EncoderConfig(Config):
    """Shape and training of the encoder."""

    hidden: int = 256
    heads: int = 4
    feed_forward: int = 512
    max_length: int = 512  # tokens, special ones included
    median_norm: float = 6.0  # of token vectors, beside norm 16 of a whole embedding
    largest_norm: float = 11.0  # what the fillers can still bring to mean 0 and norm 16
    embedding_scale: float = 10.0  # LayerNorm undoes it, so an optimiser hardly moves the embeddings
    value_scale: float = 200.0  # the mean outweighs the residual: LayerNorm then scales it to one length
    shared_part: float = 28.0  # one constant output dimension: cosines start high, as with real XLM-Rs
    steps: int = 700
    meanings_per_step: int = 64
    pool_share: float = 0.3  # of the sentences that are English
    temperature: float = 0.1
    token_drop: float = 0.1
    learning_rate: float = 3e-4
    warm_up: int = 50  # steps
    max_train_tokens: int = 48  # longer sentences are cut in training only, to save time


def hidden_vectors(vectors_VD: NDArray[np.float32], config: EncoderConfig) -> NDArray[np.float32]:
    """Token vectors as embeddings ``[V, H]`` of mean 0 and norm ``sqrt(H)``, so that LayerNorm keeps them.

    The rows of special tokens carry no vector.
    """
    norms_V = np.linalg.norm(vectors_VD, axis=1, keepdims=True)
    used = norms_V[norms_V > 0]
    scale = config.median_norm / float(np.median(used)) if used.size else 1.0
    shrink_V = np.minimum(1.0, config.largest_norm / np.maximum(norms_V * scale, 1e-9))
    scaled_VD = vectors_VD * scale * shrink_V
    total_V = scaled_VD.sum(axis=1)
    # two fillers a, b: a + b = -total and a^2 + b^2 = H - norm^2
    room_V = config.hidden - (scaled_VD**2).sum(axis=1)
    gap_V = np.sqrt(np.maximum(room_V / 2 - total_V**2 / 4, 0.0))
    fillers_V2 = np.stack([-total_V / 2 + gap_V, -total_V / 2 - gap_V], axis=1)
    return np.concatenate([scaled_VD, fillers_V2], axis=1).astype(np.float32)


def build_encoder(vectors_VD: NDArray[np.float32], config: EncoderConfig, seed: int) -> XLMRobertaModel:
    """An XLM-R that computes the length-normalised mean of the token vectors.

    Args:
        vectors_VD: D = hidden - 2.
    """
    torch.manual_seed(seed)
    model = XLMRobertaModel(_architecture(len(vectors_VD), config))
    model.eval()
    with torch.no_grad():
        set_token_vectors(model, vectors_VD, config)
        model.embeddings.position_embeddings.weight.zero_()
        model.embeddings.token_type_embeddings.weight.zero_()
        _average_tokens(model, config)
        share_one_dimension(model, config)
    return model


def set_token_vectors(model: XLMRobertaModel, vectors_VD: NDArray[np.float32], config: EncoderConfig) -> None:
    """Put token vectors in place of the model's embeddings."""
    embeddings = torch.from_numpy(hidden_vectors(vectors_VD, config) * config.embedding_scale)
    embeddings[PAD_ID] = 0.0
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.copy_(embeddings)


def _architecture(vocab_size: int, config: EncoderConfig) -> XLMRobertaConfig:
    return XLMRobertaConfig(
        vocab_size=vocab_size,
        hidden_size=config.hidden,
        num_hidden_layers=1,
        num_attention_heads=config.heads,
        intermediate_size=config.feed_forward,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=config.max_length + PAD_ID + 1,
        type_vocab_size=1,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        layer_norm_eps=1e-5,
    )


def _only_layer(model: XLMRobertaModel) -> XLMRobertaLayer:
    """The layer."""
    layer = model.encoder.layer[0]
    assert isinstance(layer, XLMRobertaLayer)
    return layer


def _average_tokens(model: XLMRobertaModel, config: EncoderConfig) -> None:
    """Attention that weighs all tokens alike, and a feed-forward part that adds nothing yet."""
    layer = _only_layer(model)
    attention = layer.attention
    for part in (attention.self.query, attention.self.key):
        torch.nn.init.normal_(part.weight, std=0.02)
        part.bias.zero_()
    attention.self.value.weight.copy_(config.value_scale * torch.eye(config.hidden))
    attention.self.value.bias.zero_()
    attention.output.dense.weight.copy_(torch.eye(config.hidden))
    attention.output.dense.bias.zero_()
    clear_fillers(model)
    layer.output.dense.weight.zero_()
    layer.output.dense.bias.zero_()


def clear_fillers(model: XLMRobertaModel) -> None:
    """The fillers serve the first LayerNorm only; nothing may write to them afterwards."""
    dense = _only_layer(model).attention.output.dense
    dense.weight[-FILLERS:].zero_()
    dense.bias[-FILLERS:].zero_()


def share_one_dimension(model: XLMRobertaModel, config: EncoderConfig) -> None:
    """One output dimension that is the same for all texts; the order of the cosines stays as it was."""
    norm = _only_layer(model).output.LayerNorm
    norm.weight[-FILLERS:].zero_()
    norm.bias[-FILLERS:] = torch.tensor([0.0, config.shared_part])


def embed_batch(
    model: XLMRobertaModel,
    texts_B: Sequence[NDArray[np.int32]],
    table_VH: Tensor | None = None,
    dimensions: int | None = None,
) -> Tensor:
    """Mean-pooled vectors ``[B, H]`` of length 1, by the model's embeddings or those of ``table_VH``.

    Args:
        dimensions: the pooled vectors are cut to these before scaling; None keeps all.
    """
    ids_BT, mask_BT = _pad(texts_B)
    table_VH = model.embeddings.word_embeddings.weight if table_VH is None else table_VH
    embedded_BTH = torch.nn.functional.embedding(ids_BT, table_VH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(inputs_embeds=embedded_BTH, attention_mask=mask_BT)
    weights_BT1 = mask_BT.unsqueeze(2)
    mean_BH = (output.last_hidden_state.float() * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1)
    return torch.nn.functional.normalize(mean_BH[:, :dimensions], dim=1)


def _pad(texts_B: Sequence[NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
    """Token ids with the special tokens around them, and their mask, both ``[B, T]`` int64."""
    longest = max(len(row) for row in texts_B) + 2
    ids_BT = torch.full((len(texts_B), longest), PAD_ID, dtype=torch.int64)
    for number, row in enumerate(texts_B):
        ids_BT[number, : len(row) + 2] = torch.tensor([BOS_ID, *row.tolist(), EOS_ID])
    return ids_BT, (ids_BT != PAD_ID).long()


def embed(
    model: XLMRobertaModel, texts_S: Sequence[NDArray[np.int32]], max_tokens: int = 254, batch_size: int = 128
) -> NDArray[np.float32]:
    """Vectors ``[S, H]`` of length 1 of texts given as token ids without special tokens."""
    order = np.argsort([len(ids) for ids in texts_S], kind="stable")
    vectors_SH = np.zeros((len(texts_S), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            vectors_SH[rows] = embed_batch(model, [texts_S[row][:max_tokens] for row in rows]).numpy()
    return vectors_SH
