"""Samples and tokens a second, memory and utilisation of GPUs, beside the loss in the trainer's log."""

import re
import time
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

# Dense bfloat16 peak in FLOP/s by a word of the device's name (the vendor's data sheets).
PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
}


class Throughput:
    """Counts what a rank does between two entries of the log; figures are for all ranks."""

    def __init__(self, model: SentenceTransformer, ranks: int) -> None:
        self._ranks = ranks
        self._flops_per_token, self._flops_per_square = training_flops(model)
        self._tokens: torch.Tensor | int = 0
        self._squares: torch.Tensor | int = 0
        self._started: float | None = None
        self._rows = 0

    def count(self, attention_masks: list[torch.Tensor]) -> None:
        """Add a micro-batch by the masks [rows, T] of its columns."""
        if self._started is None:  # not at the last figures: evaluation came between
            self._started = time.monotonic()
        self._rows += len(attention_masks[0])
        for mask_BT in attention_masks:
            lengths_B = mask_BT.sum(dim=1)
            # On the device until they are asked for: reading them would stop it at every step.
            self._tokens = self._tokens + lengths_B.sum()
            self._squares = self._squares + (lengths_B**2).sum()

    def figures(self) -> dict[str, float]:
        """What was reached since the last call; empty if nothing was counted."""
        if self._started is None:
            return {}
        seconds = time.monotonic() - self._started
        tokens, squares = int(self._tokens), int(self._squares)
        figures = {
            "samples_per_s": self._rows * self._ranks / seconds,
            "tokens_per_s": tokens * self._ranks / seconds,
        }
        if torch.cuda.is_available():
            figures["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
            peak = peak_flops(torch.cuda.get_device_name())
            flops = self._flops_per_token * tokens + self._flops_per_square * squares
            if peak is not None:
                figures["mfu"] = flops / seconds / peak
        self._started, self._rows, self._tokens, self._squares = None, 0, 0, 0
        return figures


def training_flops(model: SentenceTransformer) -> tuple[float, float]:
    """FLOP of a training step for each token, and for each squared length of a text.

    Forward and backward are 6 a weight and token, where looking an embedding up costs none, and 12 a
    layer, hidden unit and pair of tokens in attention (PaLM, arXiv 2204.02311, appendix B). Recomputed
    activations do not count.
    """
    transformer: Any = model[0]
    encoder = transformer.auto_model
    looked_up = sum(
        _size(weight)
        for module in encoder.modules()
        if isinstance(module, torch.nn.Embedding)
        for weight in module.parameters()
    )
    weights = sum(_size(weight) for weight in encoder.parameters()) - looked_up
    config = encoder.config
    return 6.0 * weights, 12.0 * config.num_hidden_layers * config.hidden_size


def peak_flops(device_name: str) -> float | None:
    """The device's peak, None if it is not listed."""
    words = re.findall(r"\w+", device_name)
    return next((peak for name, peak in PEAK_FLOPS.items() if name in words), None)


def _size(weight: torch.Tensor) -> int:
    """Of the whole weight: at ZeRO-3 the tensor itself is empty."""
    return int(getattr(weight, "ds_numel", weight.numel()))
