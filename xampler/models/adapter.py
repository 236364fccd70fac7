"""A base model with a PEFT adapter merged into it, as MaLA-500 is published.

Its adapter holds LoRA matrices, the whole embedding and output layers with rows that the base lacks, and
the tokenizer to them.
"""

from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from xampler.errors import ModelError

_WEIGHTS = "adapter_model.safetensors"
_EMBEDDING_KEYS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_HEAD_KEYS = ("lm_head.weight", "embed_out.weight")


def tokenizer_folder(base: Path, adapter: Path | None) -> Path:
    """The adapter's folder if it has a tokenizer, else the base's."""
    if adapter and any((adapter / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return adapter
    return base


def load_adapted(base: Path, adapter: Path, vocabulary: int, options: dict[str, Any]) -> PreTrainedModel:
    """The base, resized to the adapter's saved embeddings, with the adapter merged in memory.

    Args:
        vocabulary: rows where the adapter saves no embeddings: the size of its tokenizer.
        options: for ``from_pretrained``.

    Raises:
        ModelError: the adapter has no safetensors weights.
    """
    from peft import PeftModel  # a model without adapter needs torch and transformers alone

    weights = adapter / _WEIGHTS
    if not weights.is_file():
        raise ModelError(f"adapter {str(adapter)!r}: expected {_WEIGHTS}; convert its weights to safetensors")
    rows, own_head = _saved_rows(weights)
    config = AutoConfig.from_pretrained(base, trust_remote_code=options["trust_remote_code"])
    # An output layer of the adapter's own must not be tied to its embeddings.
    config.tie_word_embeddings = config.tie_word_embeddings and not own_head
    model = AutoModelForCausalLM.from_pretrained(base, config=config, **options)
    rows = rows or max(vocabulary, config.vocab_size)
    if model.get_input_embeddings().num_embeddings != rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    adapted = PeftModel.from_pretrained(model, str(adapter), use_safetensors=True, local_files_only=True)
    merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    return merged


def _saved_rows(weights: Path) -> tuple[int | None, bool]:
    """Rows of the saved embeddings, if any, and whether an output layer is saved."""
    rows = None
    own_head = False
    with safe_open(weights, "pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118 - safe_open is not iterable
            if key.endswith(_EMBEDDING_KEYS):
                rows = tensors.get_slice(key).get_shape()[0]
            own_head = own_head or key.endswith(_HEAD_KEYS)
    return rows, own_head
