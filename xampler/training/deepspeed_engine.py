"""The DeepSpeed side of training: the only file that imports deepspeed."""

import os
from typing import Any

import torch

from xampler.training.recipe import Recipe


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


def deepspeed_dict(recipe: Recipe) -> dict[str, Any]:
    """DeepSpeed's config, built from the recipe: a value has one owner.

    Values that the trainer holds as well are ``auto``: DeepSpeed refuses any that differ.
    """
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": {"stage": recipe.zero_stage},
        "optimizer": {
            "type": "AdamW",
            # torch_adam: DeepSpeed's own CPU Adam is compiled on first use, which needs a compiler.
            "params": {
                "lr": "auto",
                "betas": "auto",
                "eps": "auto",
                "weight_decay": "auto",
                "torch_adam": True,
            },
        },
    }
