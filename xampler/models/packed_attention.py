"""Attention over packed rows, as an attention function of transformers.

Models that take attention functions from transformers' registry need no other change: their projections
and position embeddings see one long row with explicit position ids. Shapes: H heads, T tokens, D of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from xampler.models.packing import Attention, PackedBatch, Range

PACKED_ATTENTION = "xampler_packed"

# What other models hand to attention functions and this one would leave out of the result.
_UNKNOWN = ("softcap", "s_aux", "position_bias", "cache", "indexer")


class PackedAttentionError(Exception):
    """A model asks for a kind of attention that this function does not know."""


class _Plan:
    """Attention calls of a batch, built once per window and device and used by every layer but the last."""

    def __init__(self, batch: PackedBatch, read_layer: int | None) -> None:
        self.batch = batch
        self.read_layer = read_layer
        self.calls: dict[tuple[torch.device, int | None], list[Attention]] = {}

    def attentions(
        self, layer: int | None, dtype: torch.dtype, device: torch.device, window: int | None
    ) -> list[Attention]:
        if layer is not None and layer == self.read_layer:
            return self.batch.reads(dtype, device, window)
        if (device, window) not in self.calls:
            self.calls[device, window] = self.batch.attentions(dtype, device, window)
        return self.calls[device, window]


_plan: ContextVar[_Plan] = ContextVar("packed attention plan")


@contextmanager
def packed(batch: PackedBatch, read_layer: int | None = None) -> Iterator[None]:
    """Let attention calls inside follow ``batch``.

    Args:
        read_layer: the layer of which only the rows that are read off are wanted.
    """
    token = _plan.set(_Plan(batch, read_layer))
    try:
        yield
    finally:
        _plan.reset(token)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: object,  # whatever else the model's own code hands to attention functions
) -> tuple[torch.Tensor, None]:
    """Attention [1, T, H, D] of packed ``query`` [1, H, T, D]; keys and values may have fewer heads.

    Raises:
        PackedAttentionError: the model asks for something that is not known here.
    """
    asked = [name for name in _UNKNOWN if others.get(name) is not None]
    if asked or attention_mask is not None:
        raise PackedAttentionError(f"{type(module).__name__} asks for {asked or 'a mask of its own'}")
    layer = getattr(module, "layer_idx", None)
    if sliding_window is None and _has_window(module, layer):
        raise PackedAttentionError(f"{type(module).__name__} keeps its window to its own mask")
    output = value.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    queries_a_key = query.shape[1] // key.shape[1]
    # CUDA kernels know masks or fewer keys than queries, not both: else all scores would be written out.
    if queries_a_key > 1 and query.device.type == "cuda":
        key, value = (states.repeat_interleave(queries_a_key, dim=1) for states in (key, value))
    for call in _plan.get().attentions(layer, query.dtype, query.device, sliding_window):
        start, stop = call.rows
        attended = scaled_dot_product_attention(
            query[:, :, start:stop],
            _gather(key, call.path),
            _gather(value, call.path),
            attn_mask=call.mask,
            is_causal=call.mask is None,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        output[:, start:stop] = attended.transpose(1, 2)
    return output, None


def _has_window(module: torch.nn.Module, layer: int | None) -> bool:
    """Whether the layer's attention has a window by the model's config: no probe is as long as most are."""
    config = getattr(module, "config", None)
    layer_types = getattr(config, "layer_types", None)
    if layer_types and layer is not None:
        return bool(layer_types[layer] == "sliding_attention")
    return bool(getattr(config, "sliding_window", None))


def _gather(states: torch.Tensor, path: tuple[Range, ...]) -> torch.Tensor:
    pieces = [states[:, :, start:stop] for start, stop in path]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
