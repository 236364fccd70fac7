"""From token states to sentence vectors, as the model's folder says in sentence-transformers' layout.

Shapes: B texts, T tokens, H hidden size, D dimensions.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import nn

from xampler.errors import ModelError

PoolingMode = Literal["mean", "cls"]

_LEGACY_KEYS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


@dataclass(frozen=True)
class SentenceLayout:
    """What a folder's ``modules.json`` does with token states."""

    pooling: PoolingMode = "mean"
    layer_weights: torch.Tensor | None = (
        None  # [layers + 1], of the embeddings and each layer; None: the last
    )
    after: nn.Module = field(default_factory=nn.Identity)  # [B, H] -> [B, D]
    max_tokens: int | None = None
    lower_case: bool = False


class _Normalize(nn.Module):
    def forward(self, vectors_BD: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(vectors_BD, dim=-1)


def read_sentence_layout(folder: Path) -> SentenceLayout:
    """The layout of a model folder; mean pooling where it says nothing.

    Raises:
        ModelError: the folder asks for a module or a pooling that is not known here.
    """
    listing = folder / "modules.json"
    if not listing.is_file():
        return SentenceLayout()
    modules = json.loads(listing.read_text(encoding="utf-8"))
    kinds = [(module["type"].rsplit(".", 1)[-1], folder / module["path"]) for module in modules]
    limits = _read_json(folder / "sentence_bert_config.json")
    pooling: PoolingMode = "mean"
    layer_weights: torch.Tensor | None = None
    after: list[nn.Module] = []
    for kind, path in kinds:
        match kind:
            case "Transformer":
                continue
            case "WeightedLayerPooling":
                layer_weights = _layer_weights(path)
            case "Pooling":
                pooling = _pooling_mode(path)
            case "Dense":
                after.append(_dense(path))
            case "Normalize":
                after.append(_Normalize())
            case _:
                raise ModelError(
                    f"{folder}: modules.json asks for {kind}; known are Transformer, "
                    "WeightedLayerPooling, Pooling, Dense and Normalize"
                )
    return SentenceLayout(
        pooling,
        layer_weights,
        nn.Sequential(*after),
        limits.get("max_seq_length"),
        bool(limits.get("do_lower_case")),
    )


def pool(states_BTH: torch.Tensor, mask_BT: torch.Tensor, mode: PoolingMode) -> torch.Tensor:
    """Vectors [B, H] in float32: the mean over the tokens in the mask, or the first token."""
    if mode == "cls":
        return states_BTH[:, 0].float()
    weights_BT1 = mask_BT.unsqueeze(-1).float()
    return (states_BTH.float() * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1e-9)


def _layer_weights(path: Path) -> torch.Tensor:
    """Weights of the embeddings and each layer, which add up to one."""
    start = _read_json(path / "config.json")["layer_start"]
    weights = load_file(path / "model.safetensors")["layer_weights"]
    return nn.functional.pad(weights / weights.sum(), (start, 0))


def _pooling_mode(path: Path) -> PoolingMode:
    config = _read_json(path / "config.json")
    mode = config.get("pooling_mode")
    if mode is None:
        flags = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
        mode = "+".join(_LEGACY_KEYS.get(key, key) for key in flags)
    match mode:
        case "mean" | ["mean"] | "":
            return "mean"
        case "cls" | ["cls"]:
            return "cls"
    raise ModelError(f"{path}: pooling {mode!r} is not known; known are mean and cls")


def _dense(path: Path) -> nn.Module:
    config = _read_json(path / "config.json")
    weights = path / "model.safetensors"
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    kind = getattr(nn, activation.rsplit(".", 1)[-1], None)
    if not weights.is_file() or kind is None or not activation.startswith("torch.nn."):
        raise ModelError(f"{path}: a Dense module needs model.safetensors and an activation of torch.nn")
    linear = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    linear.load_state_dict({key.removeprefix("linear."): value for key, value in load_file(weights).items()})
    return nn.Sequential(linear, kind())


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
