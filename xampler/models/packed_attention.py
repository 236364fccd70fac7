"""Attention over packed rows, as an attention function of transformers.

Models that take attention functions from transformers' registry need no other change: their projections
and position embeddings see one long row with explicit position ids. Shapes: H heads, T tokens, D of a head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from xampler.models.attention_groups import AttentionGroup, group_attentions
from xampler.models.packing import Attention, PackedBatch, Range

PACKED_ATTENTION = "xampler_packed"

# Queries per call of attention where calls are cheap. Torch's CPU kernel computes all keys of a call and then
# masks them; without blocks twice as many as needed. Elsewhere calls are put together (attention_groups).
_BLOCKS = {"cpu": 64}

# Fills some rows of the output [1, T, H, D] from queries, keys and values [1, H, T, D] and the scale.
_Call = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float | None, torch.Tensor], None]

# What other models hand to attention functions and this one would leave out of the result.
_UNKNOWN = ("softcap", "s_aux", "position_bias", "cache", "indexer")


class PackedAttentionError(Exception):
    """A model asks for a kind of attention that this function does not know."""


class _Plan:
    """Attention calls of a batch, built once per window and device and used by every layer but the last."""

    def __init__(self, batch: PackedBatch, read_layer: int | None) -> None:
        self.batch = batch
        self.read_layer = read_layer
        self._calls: dict[tuple[torch.device, int | None], list[_Call]] = {}

    def calls(
        self, layer: int | None, dtype: torch.dtype, device: torch.device, window: int | None
    ) -> list[_Call]:
        block = _BLOCKS.get(device.type)
        if layer is not None and layer == self.read_layer:
            return _make_calls(self.batch.reads(dtype, window), dtype, device, block)
        if (device, window) not in self._calls:
            calls = self.batch.attentions(dtype, window, block)
            self._calls[device, window] = _make_calls(calls, dtype, device, block)
        return self._calls[device, window]


def _make_calls(
    calls: list[Attention], dtype: torch.dtype, device: torch.device, block: int | None
) -> list[_Call]:
    if block is not None:
        return [partial(_attend_alone, call) for call in calls]
    return [partial(_attend_together, group) for group in group_attentions(calls, dtype, device)]


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
    plan = _plan.get()
    output = value.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    output[:, output.shape[1] - plan.batch.padding :] = 0
    queries_a_key = query.shape[1] // key.shape[1]
    # CUDA kernels know masks or fewer keys than queries, not both: else all scores would be written out.
    if queries_a_key > 1 and query.device.type == "cuda":
        key, value = (states.repeat_interleave(queries_a_key, dim=1) for states in (key, value))
    for call in plan.calls(layer, query.dtype, query.device, sliding_window):
        call(query, key, value, scaling, output)
    return output, None


def _attend_alone(
    call: Attention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    output: torch.Tensor,
) -> None:
    start, stop = call.rows
    keys, values = _gather(key, call.path), _gather(value, call.path)
    output[:, start:stop] = _attend(query[:, :, start:stop], keys, values, call.mask, scale)


def _attend_together(
    group: AttentionGroup,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    output: torch.Tensor,
) -> None:
    queries, keys, values = _take(query, group.rows), _take(key, group.keys), _take(value, group.keys)
    attended = _attend(queries, keys, values, group.mask, scale)
    output[0, group.places] = attended.flatten(0, 1)[group.unpadded]


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float | None,
) -> torch.Tensor:
    """Attention [G, R, H, D] of queries [G, H, R, D]; causal where there is no mask."""
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=key.shape[1] != query.shape[1],
    ).transpose(1, 2)


def _has_window(module: torch.nn.Module, layer: int | None) -> bool:
    """Whether the layer's attention has a window by the model's config: no probe is as long as most are."""
    config = getattr(module, "config", None)
    layer_types = getattr(config, "layer_types", None)
    if layer_types and layer is not None:
        return bool(layer_types[layer] == "sliding_attention")
    return bool(getattr(config, "sliding_window", None))


def _take(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The states [1, H, T, D] at ``places`` [G, R], as [G, H, R, D]."""
    return states[0].transpose(0, 1)[places].transpose(1, 2)


def _gather(states: torch.Tensor, path: tuple[Range, ...]) -> torch.Tensor:
    pieces = [states[:, :, start:stop] for start, stop in path]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
