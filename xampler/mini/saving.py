"""Writing the mini models in the layouts that transformers and sentence-transformers load unchanged."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM, PreTrainedModel, XLMRobertaModel

from xampler.mini.tokenizer import encoder_tokenizer, language_model_tokenizer

ENCODER, LANGUAGE_MODEL = "encoder", "language_model"
ENCODER_MAX_LENGTH = 256  # tokens that sentence-transformers keeps of a text


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a folder beside ``folder``, then put it in its place: never a half-written model."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        fresh, old = Path(scratch) / "fresh", Path(scratch) / "old"
        fresh.mkdir()
        write(fresh)
        for file in fresh.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)  # safetensors lets the owner alone read
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)


def save_encoder(model: XLMRobertaModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Weights in fp16, tokenizer, and the sentence-transformers files that ask for mean pooling."""
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch)
        _save_halved(model, plain)
        encoder_tokenizer(tokenizer, ENCODER_MAX_LENGTH).save_pretrained(plain)
        transformer = Transformer(str(plain), max_seq_length=ENCODER_MAX_LENGTH)
        pooling = Pooling(model.config.hidden_size, pooling_mode="mean")
        both = SentenceTransformer(modules=[transformer, pooling], device="cpu")
        both.save(str(folder), create_model_card=False)
        # sentence-transformers wrote the weights as it had loaded them, in float32
        for file in ("model.safetensors", "config.json"):
            shutil.copyfile(plain / file, folder / file)


def save_language_model(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Weights in fp16 and tokenizer."""
    _save_halved(model, folder)
    language_model_tokenizer(tokenizer, model.config.max_position_embeddings).save_pretrained(folder)


def _save_halved(model: PreTrainedModel, folder: Path) -> None:
    """Store fp16 and say float32: loading gives float32, which CPUs are faster with."""
    tied = set(model.all_tied_weights_keys)
    weights = {name: tensor.half() for name, tensor in model.state_dict().items() if name not in tied}
    model.config.dtype = torch.float32
    model.save_pretrained(folder, state_dict=weights)
