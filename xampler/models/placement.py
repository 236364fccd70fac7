"""Where a model's weights lie and in which form: device, several GPUs, type, quantisation."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from xampler.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from xampler.models.build import EncoderConfig, LanguageModelConfig


def encoder_options(config: "EncoderConfig") -> dict[str, Any]:
    """For ``from_pretrained``."""
    return _options(config)


def language_model_options(config: "LanguageModelConfig") -> dict[str, Any]:
    """For ``from_pretrained``.

    Raises:
        ModelError: quantisation without a CUDA device or without bitsandbytes.
    """
    options = _options(config)
    if config.quantization is not None:
        options["quantization_config"] = _quantization(config)
        # Quantised weights cannot be moved later on.
        options["device_map"] = {"": _device(config.device)}
    if config.device_map is not None:
        options["device_map"] = config.device_map
    return options


def place(model: "PreTrainedModel", config: "LanguageModelConfig | EncoderConfig") -> "PreTrainedModel":
    """The model on its device, unless it was loaded to where it belongs.

    Raises:
        ModelError: the GPUs' memory does not suffice for ``device_map``.
    """
    import torch

    if getattr(model, "hf_device_map", None) is None:
        torch.nn.Module.to(model, _device(config.device))  # the model's own method is not annotated
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ModelError(
            f"model {config.model!r} does not fit into the memory of this host's GPUs; add GPUs, or use "
            "dtype bfloat16 or quantization 8bit or 4bit"
        )
    return model


def _options(config: "LanguageModelConfig | EncoderConfig") -> dict[str, Any]:
    import torch

    return {
        "dtype": getattr(torch, config.dtype),
        "use_safetensors": True,
        "trust_remote_code": config.trust_remote_code,
        "local_files_only": True,
    }


def _device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _quantization(config: "LanguageModelConfig") -> Any:  # noqa: ANN401 - transformers annotates none of it
    import torch

    given = f"language_model.quantization {config.quantization}"
    if not torch.cuda.is_available():
        raise ModelError(f"{given} needs a CUDA device; leave it out on this machine")
    if find_spec("bitsandbytes") is None:
        raise ModelError(f"{given} needs a package: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_8bit=config.quantization == "8bit",
        load_in_4bit=config.quantization == "4bit",
        bnb_4bit_compute_dtype=getattr(torch, config.dtype),
    )
