"""What a device can do, what it was given to do, and its memory.

Shapes: N rows of inputs, I inputs, O outputs.
"""

import functools
import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from benchmarks import Measurement, Way, markdown_table, measure
from benchmarks.gpu.shapes import LlamaShape, Setting, Shape
from xampler.models.placement import is_out_of_memory

_BLOCKS, _PRODUCTS_A_BLOCK = 10, 20
_SQUARE = 8192
OUT_OF_MEMORY = "out of memory"

T = TypeVar("T")


def run_ceiling(setting: Setting) -> str:
    """Matrix products at the model's own shapes; a table in Markdown."""
    rates = _product_rates(setting.device, setting.shape)
    rows = [[name, size, f"{rate / 1e12:,.3g}"] for (name, size), rate in rates.items()]
    return markdown_table(("product", "rows x inputs x outputs", "TFLOP/s"), rows)


def measured_ceiling(setting: Setting) -> float:
    """The best rate, in FLOP/s, of matrix products in bfloat16 at the model's own shapes."""
    return max(_product_rates(setting.device, setting.shape).values())


@functools.cache
def _product_rates(device: torch.device, shape: Shape) -> dict[tuple[str, str], float]:
    rates = {}
    for name, (rows, inputs, outputs) in _products(shape.llama, shape.product_tokens).items():
        rates[name, f"{rows:,} x {inputs:,} x {outputs:,}"] = _rate(device, rows, inputs, outputs)
    return rates


def _products(llama: LlamaShape, tokens: int) -> dict[str, tuple[int, int, int]]:
    square = min(_SQUARE, tokens)
    return {
        "queries, keys, values, output": (tokens, llama.hidden, llama.hidden),
        "feed-forward, in": (tokens, llama.hidden, llama.intermediate),
        "feed-forward, out": (tokens, llama.intermediate, llama.hidden),
        "square": (square, square, square),
    }


def _rate(device: torch.device, rows: int, inputs: int, outputs: int) -> float:
    """FLOP/s of a product in bfloat16: the median of blocks of products of normal random numbers."""
    inputs_NI = torch.randn(rows, inputs, dtype=torch.bfloat16, device=device)
    weight_OI = torch.randn(outputs, inputs, dtype=torch.bfloat16, device=device)
    seconds = []
    for _ in range(1 + _BLOCKS):
        started = time.perf_counter()
        for _ in range(_PRODUCTS_A_BLOCK):
            linear(inputs_NI, weight_OI)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return float(_PRODUCTS_A_BLOCK * 2 * rows * inputs * outputs / np.median(seconds[1:]))


class FlopCount(TorchFunctionMode):
    """Counts the FLOP of the linear layers and attention that are run inside.

    Keys that a mask hides count, as kernels compute them; of causal attention one half counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function gives
        kwargs = kwargs or {}
        if func is linear:
            inputs_NI, weight_OI = args[:2]
            self.flops += 2.0 * inputs_NI.numel() * len(weight_OI)
        elif func is scaled_dot_product_attention:
            query, key, value = args[:3]
            pairs = query.shape[:-1].numel() * key.shape[-2]  # of all heads
            flops = 2.0 * pairs * (query.shape[-1] + value.shape[-1])
            self.flops += flops / 2 if kwargs.get("is_causal") else flops
        return func(*args, **kwargs)


@dataclass(frozen=True)
class DeviceMeasurement:
    """A measurement, what the device did for it, and its memory."""

    measured: Measurement
    flops: float  # per text
    peak_gib: float  # nan without a GPU
    ran_out: bool  # memory ended on the way, and batches were halved

    @property
    def flops_per_s(self) -> float:
        """Rate at which the device was kept at work."""
        return self.flops / self.measured.wall_s


def measure_on(device: torch.device, way: Way, texts: list[str], rounds: int) -> DeviceMeasurement | None:
    """A way by itself, after a run of the same texts that counts its FLOP; None where memory ends."""

    def run() -> DeviceMeasurement:
        given = texts[:: way.every]
        failed = _allocations_failed(device)
        reset_peak(device)
        with FlopCount() as count:
            way.compute(given)
        [measured] = measure([way], texts, rounds)
        ran_out = _allocations_failed(device) > failed
        return DeviceMeasurement(measured, count.flops / len(given), peak_gib(device), ran_out)

    return unless_out_of_memory(run)


def unless_out_of_memory(work: Callable[[], T]) -> T | None:
    """What ``work`` gives; None, and the memory free again, where memory ends."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside of the handler, as the error's traceback holds on to tensors.
    free_memory()
    return None


def free_memory() -> None:
    """Give back what nothing refers to any longer."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Let :func:`peak_gib` begin here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float:
    """Most memory of the GPU that tensors have held; nan without a GPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")


def in_gib(gib: float) -> str:
    """A cell of a table; empty where nothing was measured."""
    return "" if np.isnan(gib) else f"{gib:.1f}"


def _allocations_failed(device: torch.device) -> int:
    return int(torch.cuda.memory_stats(device)["num_ooms"]) if device.type == "cuda" else 0
