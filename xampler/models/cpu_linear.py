"""Linear layers on a CPU by oneDNN, with weights laid out for it beforehand.

In float32 torch takes MKL there, and lays the weights out anew at every call: on the cores measured
(docs/benchmarks.md) that is a tenth slower for the layers of a model and half slower for an output head.
Shapes: N rows, I inputs, O outputs.
"""

import functools
import platform
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

Linear = Callable[[torch.Tensor], torch.Tensor]  # [N, I] to [N, O]

# Of weights that are laid out anew, which is a copy: larger ones stay where they are, since workers on a
# host share the pages of a memory-mapped file.
COPIED_BYTES = 1 << 30

_LEAST_STEP, _STEPS_AN_OCTAVE = 16, 64  # of numbers of rows


def make_linears(layers: Sequence[tuple[torch.Tensor, torch.Tensor | None]]) -> list[Linear]:
    """``nn.functional.linear`` with each weight [O, I] and bias [O], for inference, in the fastest way.

    Weights that change afterwards may or may not count.
    """
    copy = sum(weight.nbytes for weight, _ in layers) <= COPIED_BYTES
    return [
        _make_linear(weight.detach(), None if bias is None else bias.detach(), copy=copy)
        for weight, bias in layers
    ]


def speed_up(model: nn.Module) -> None:
    """Have linear layers of ``model`` that lie on the CPU computed by oneDNN where no gradient is wanted.

    For a model whose weights do not change any more. Results differ from before by rounding in float32;
    parameters and state stay what they are.
    """
    layers = [
        module
        for module in model.modules()
        if type(module) is nn.Linear and "forward" not in vars(module) and _usable(module.weight)
    ]
    for layer, linear in zip(
        layers, make_linears([(layer.weight, layer.bias) for layer in layers]), strict=True
    ):
        layer.forward = functools.partial(_forward, layer, linear)  # type: ignore[method-assign]


def round_up(rows: int) -> int:
    """The number of rows that oneDNN is given in place of ``rows``: at most 15, or 1/64, more.

    It makes code for every number of rows that it meets, and keeps it: memory would grow with batches of ever
    different sizes.
    """
    step = max(_LEAST_STEP, (1 << max(0, rows.bit_length() - 1)) // _STEPS_AN_OCTAVE)
    return -(-rows // step) * step


def _forward(layer: nn.Linear, linear: Linear, input: torch.Tensor) -> torch.Tensor:
    """The operator has no gradient, and would give a wrong one."""
    return nn.Linear.forward(layer, input) if torch.is_grad_enabled() else linear(input)


def _make_linear(weight: torch.Tensor, bias: torch.Tensor | None, *, copy: bool) -> Linear:
    if not _usable(weight):
        return functools.partial(nn.functional.linear, weight=weight, bias=bias)
    return functools.partial(_onednn, weight=_lay_out(weight) if copy else weight, bias=bias)


def _usable(weight: torch.Tensor) -> bool:
    return weight.device.type == "cpu" and _works(weight.dtype)


@functools.cache
def _works(dtype: torch.dtype) -> bool:
    """Whether torch has what is needed, which is not public, and it computes what it should."""
    if platform.machine() not in ("x86_64", "AMD64") or dtype not in (torch.float32, torch.bfloat16):
        return False
    rows, weight, bias = (torch.linspace(-1, 1, n).to(dtype) for n in (4 * 16, 8 * 16, 8))
    rows, weight = rows.view(4, 16), weight.view(8, 16)
    expected = nn.functional.linear(rows, weight, bias)
    try:
        given = [_onednn(rows, weight=own, bias=bias) for own in (weight, _lay_out(weight))]
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(one, expected, rtol=1e-2, atol=1e-2) for one in given)


def _lay_out(weight: torch.Tensor) -> torch.Tensor:
    operators: Any = torch.ops.mkldnn
    with torch.no_grad():
        packed: torch.Tensor = operators._reorder_linear_weight(weight.contiguous(), None)
    return packed


def _onednn(input: torch.Tensor, *, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    operators: Any = torch.ops.mkldnn
    rows = input.shape[:-1].numel()
    missing = round_up(rows) - rows
    given = nn.functional.pad(input.flatten(0, -2), (0, 0, 0, missing)) if missing else input
    output: torch.Tensor = operators._linear_pointwise(given, weight, bias, "none", [], "")
    return output[:rows].view(*input.shape[:-1], -1) if missing else output
