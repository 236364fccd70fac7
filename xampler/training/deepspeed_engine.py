"""The DeepSpeed side of training: the only file that imports deepspeed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from xampler.training.recipe import SHARDED_WEIGHTS, EngineConfig


def prepare_engine() -> str:
    """Choose DeepSpeed's accelerator before it chooses by itself; returns its name.

    Without a GPU nothing is compiled: DeepSpeed would probe a compiler for every kernel that it has and
    build one for shared-memory reduction, and a machine need not have a compiler.
    """
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # after the choice

    if not on_gpu:
        deepspeed.ops.__compatible_ops__ = {}
    name: str = deepspeed.get_accelerator().device_name()
    return name


def deepspeed_dict(engine: EngineConfig) -> dict[str, Any]:
    """DeepSpeed's config, built from ours: a value has one owner.

    Values that the trainer holds as well are ``auto``: DeepSpeed refuses any that differ.
    """
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": _zero(engine),
        # No optimiser here: DeepSpeed's would decay biases and norms too, and its CPU one needs a compiler.
        # The trainer's, torch's AdamW, may be offloaded like DeepSpeed's own.
        "zero_force_ds_cpu_optimizer": False,
    }


@contextmanager
def whole_weights(model: torch.nn.Module, *, change: bool) -> Iterator[None]:
    """Every rank has all of the sharded weights; with ``change`` they become what rank 0 makes of them."""
    import deepspeed

    gathered = deepspeed.zero.GatheredParameters(
        list(model.parameters()), modifier_rank=0 if change else None
    )
    with gathered:
        yield


def _zero(engine: EngineConfig) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": engine.zero_stage}
    if engine.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu"}
        if engine.zero_stage == SHARDED_WEIGHTS:
            zero["offload_param"] = {"device": "cpu"}
    return zero
