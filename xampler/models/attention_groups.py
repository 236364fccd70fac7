"""Calls of attention put together, for devices that start a call no faster than they compute a short prompt.

Packed prompts make one or two calls each, in every layer. Calls of about the same size become one here, each
padded to the longest of them. Shapes: G calls, R queries and K keys of the longest, N queries that are no
padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from xampler.models.packing import Attention

# Keys of a mask: CUDA's kernels want rows of them to begin at addresses that these divide.
_ALIGNED_KEYS = 8
# Keys of a call at most: each prompt has a copy of those that it shares, at MaLA-500's shape 16 KiB a key.
_MOST_KEYS = 1 << 18


@dataclass(frozen=True)
class AttentionGroup:
    """One call of attention in place of several."""

    rows: torch.Tensor  # [G, R] places of the queries in the packed row; padding repeats a call's last
    keys: torch.Tensor  # [G, K] places of the keys
    mask: torch.Tensor | None  # [G, 1, R, K] float, 0 or -inf; None: keys are rows, attention is causal
    unpadded: torch.Tensor  # [N] which of the G * R queries are wanted
    places: torch.Tensor  # [N] where these stand in the packed row


def group_attentions(
    calls: Sequence[Attention], dtype: torch.dtype, device: torch.device
) -> list[AttentionGroup]:
    """The calls, whose masks are on the CPU, in groups of about one size; tensors on ``device``."""
    alike: dict[tuple[bool, int, int], list[Attention]] = {}
    for call in calls:
        size = call.mask is None, _size_class(_rows(call)), _size_class(_keys(call))
        alike.setdefault(size, []).append(call)
    groups = []
    for members in alike.values():
        step = max(1, _MOST_KEYS // max(map(_keys, members)))
        groups += [
            _group(members[first : first + step], dtype, device) for first in range(0, len(members), step)
        ]
    return groups


def _group(calls: Sequence[Attention], dtype: torch.dtype, device: torch.device) -> AttentionGroup:
    starts, stops = torch.tensor([call.rows for call in calls]).T
    places = starts[:, None] + torch.arange(max(map(_rows, calls)))
    wanted = places < stops[:, None]
    rows = places.minimum(stops[:, None] - 1).to(device)
    keys, mask = rows, None
    if calls[0].mask is not None:
        keys, mask = (states.to(device) for states in _keys_and_mask(calls, rows.shape[1], dtype))
    return AttentionGroup(
        rows,
        keys,
        mask,
        wanted.flatten().nonzero()[:, 0].to(device),
        places[wanted].to(device),
    )


def _keys_and_mask(
    calls: Sequence[Attention], rows: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    most = max(map(_keys, calls))
    most += -most % _ALIGNED_KEYS
    keys = torch.zeros(len(calls), most, dtype=torch.long)
    mask = torch.full((len(calls), 1, rows, most), -torch.inf, dtype=dtype)
    for number, call in enumerate(calls):
        assert call.mask is not None
        path = [torch.arange(start, stop) for start, stop in call.path]
        keys[number, : _keys(call)] = torch.cat(path)
        mask[number, 0, : _rows(call), : _keys(call)] = call.mask
        mask[number, 0, _rows(call) :, 0] = 0  # a query that sees nothing would be NaN
    return keys, mask


def _rows(call: Attention) -> int:
    start, stop = call.rows
    return stop - start


def _keys(call: Attention) -> int:
    return sum(stop - start for start, stop in call.path)


def _size_class(size: int) -> int:
    """``size`` rounded up, by at most 15 or a quarter of it."""
    step = max(16, (1 << (size.bit_length() - 1)) // 4)
    return -(-size // step) * step
