"""Where a model's weights lie and in which form: device, several GPUs, type, quantisation."""

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from xampler.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from xampler.models.build import EncoderConfig, LanguageModelConfig


_NO_MEMORY = re.compile(r"out of memory|(can't|cannot) allocate memory|STATUS_ALLOC_FAILED", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of host or GPU ended; torch has a class of its own for some of its allocators only."""
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or bool(_NO_MEMORY.search(str(error)))


def loading_options(config: "LanguageModelConfig | EncoderConfig") -> dict[str, Any]:
    """For ``from_pretrained``.

    Raises:
        ModelError: torch has no such device here.
    """
    import torch

    _check_device(config.device)
    return {
        "dtype": getattr(torch, config.dtype),
        "use_safetensors": True,
        "trust_remote_code": config.trust_remote_code,
        "local_files_only": True,
    }


def language_model_options(config: "LanguageModelConfig") -> dict[str, Any]:
    """:func:`loading_options`, quantisation and distribution over GPUs.

    Raises:
        ModelError: as there; quantisation without a CUDA device or without bitsandbytes.
    """
    options = loading_options(config)
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


def _check_device(device: str) -> None:
    """Before the weights are read: a wrong name would show only when they are moved."""
    if device == "auto":
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # each kind of device has its own
        if is_out_of_memory(error):
            raise
        gpus = torch.cuda.device_count()
        expected = f"cuda, or cuda:0 to cuda:{gpus - 1}" if gpus else "no cuda: torch finds no GPU here"
        raise ModelError(
            f"device {device!r} cannot be used: {' '.join(str(error).split())[:200]} (expected: auto, cpu, "
            f"{expected})"
        ) from error


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
