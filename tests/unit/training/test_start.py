"""What training starts from gives the vectors that the encoder of the same config gives."""

import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, DistilBertConfig, DistilBertModel, dynamic_module_utils

from xampler.errors import ModelError
from xampler.models.build import EncoderConfig, load_encoder
from xampler.training.start import load_starting_encoder

TEXTS = ["ball goal team", "The NURSE was in a ward of the " * 6]
WIDTH, LAYERS, LIMIT, POSITIONS = 32, 2, 20, 38  # of the folders below


@pytest.fixture
def sentence_folder(tmp_path: Path, encoder_folder: Path) -> Path:
    """In sentence-transformers' layout: first token, learned weights of the layers, a dense layer."""
    folder = Path(shutil.copytree(encoder_folder, tmp_path / "encoder"))
    kinds = ["Transformer", "WeightedLayerPooling", "Pooling", "Dense", "Normalize"]
    paths = ["", *(f"{at}_{kind}" for at, kind in enumerate(kinds[1:], start=1))]
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    activation = "torch.nn.modules.activation.Tanh"
    configs = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": LIMIT, "do_lower_case": True},
        "1_WeightedLayerPooling/config.json": {
            "word_embedding_dimension": WIDTH,
            "num_hidden_layers": LAYERS,
            "layer_start": 1,
        },
        "2_Pooling/config.json": {"word_embedding_dimension": WIDTH, "pooling_mode": "cls"},
        "3_Dense/config.json": {"in_features": WIDTH, "out_features": 6, "activation_function": activation},
    }
    for path in paths[1:]:
        (folder / path).mkdir()
    for name, config in configs.items():
        (folder / name).write_text(json.dumps(config), encoding="utf-8")
    torch.manual_seed(1)
    save_file({"layer_weights": torch.tensor([1.0, 4.0])}, folder / paths[1] / "model.safetensors")
    dense = {"linear.weight": torch.randn(6, WIDTH), "linear.bias": torch.randn(6)}
    save_file(dense, folder / paths[3] / "model.safetensors")
    return folder


def assert_agree(config: EncoderConfig, folder: Path) -> None:
    """Before training, and when what was saved in ``folder`` is loaded again."""
    started = load_starting_encoder(config)
    expected = load_encoder(config).encode(TEXTS)
    np.testing.assert_allclose(started.encode(TEXTS), expected, atol=1e-5)
    started.save(str(folder))
    saved = EncoderConfig(model=str(folder), device="cpu", max_tokens=config.max_tokens, prefix=config.prefix)
    np.testing.assert_allclose(load_encoder(saved).encode(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "layer"), itertools.product([None, "mean", "cls"], [None, 1, 2, "weighted"]), ids=str
)
@pytest.mark.parametrize("kind", ["plain", "modules"])
def test_vectors_are_those_of_the_encoder(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, pooling: str | None, layer: int | str | None
) -> None:
    folder = request.getfixturevalue("encoder_folder" if kind == "plain" else "sentence_folder")
    values = {"model": str(folder), "device": "cpu", "pooling": pooling, "layer": layer, "prefix": "ball "}
    assert_agree(EncoderConfig.model_validate(values), tmp_path / "saved")


@pytest.mark.parametrize(
    ("kind", "asked", "taken"),
    [("plain", 32, 32), ("plain", 256, POSITIONS), ("modules", 12, 12), ("modules", 32, LIMIT)],
)
def test_texts_are_cut_where_the_encoder_cuts_them(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, asked: int, taken: int
) -> None:
    folder = request.getfixturevalue("encoder_folder" if kind == "plain" else "sentence_folder")
    config = EncoderConfig(model=str(folder), device="cpu", max_tokens=asked)
    assert load_starting_encoder(config).max_seq_length == load_encoder(config).max_tokens == taken
    assert_agree(config, tmp_path / "saved")


def pickle_weights(weights: Path) -> None:
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()


@pytest.mark.parametrize(
    ("kind", "pickled"),
    [("plain", ""), ("modules", ""), ("modules", "3_Dense"), ("modules", "1_WeightedLayerPooling")],
)
def test_pickled_weights_are_not_read(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, pickled: str
) -> None:
    folder = request.getfixturevalue("encoder_folder" if kind == "plain" else "sentence_folder")
    copy = Path(shutil.copytree(folder, tmp_path / "pickled"))
    pickle_weights(copy / pickled / "model.safetensors")
    with pytest.raises(ModelError, match="safetensors"):
        load_starting_encoder(EncoderConfig(model=str(copy), device="cpu"))


def test_halved_weights_are_trained_whole(tmp_path: Path, encoder_folder: Path) -> None:
    copy = Path(shutil.copytree(encoder_folder, tmp_path / "halved"))
    AutoModel.from_pretrained(encoder_folder, dtype=torch.bfloat16).save_pretrained(copy)
    started = load_starting_encoder(EncoderConfig(model=str(copy), device="cpu"))
    assert {weight.dtype for weight in started.parameters()} == {torch.float32}


CODE = """
from transformers import XLMRobertaConfig, XLMRobertaModel

class OwnConfig(XLMRobertaConfig):
    model_type = "own"

class OwnModel(XLMRobertaModel):
    config_class = OwnConfig
"""


@pytest.mark.parametrize("trusted", [True, False])
def test_a_model_with_its_own_code_needs_trust(
    tmp_path: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    copy = Path(shutil.copytree(encoder_folder, tmp_path / "own"))
    (copy / "own.py").write_text(CODE, encoding="utf-8")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    encoder = EncoderConfig(model=str(copy), device="cpu", trust_remote_code=trusted)
    if trusted:
        assert type(load_starting_encoder(encoder)[0].auto_model).__name__ == "OwnModel"
    else:
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_starting_encoder(encoder)


def test_a_layer_that_is_not_there_is_named(encoder_folder: Path) -> None:
    for layer in (0, LAYERS + 1):
        with pytest.raises(ModelError, match=f"no layer {layer} to train; give 1 to {LAYERS}"):
            load_starting_encoder(EncoderConfig(model=str(encoder_folder), device="cpu", layer=layer))


def test_a_model_that_keeps_its_layers_elsewhere_is_refused(tmp_path: Path, encoder_folder: Path) -> None:
    copy = Path(shutil.copytree(encoder_folder, tmp_path / "distil"))
    config = DistilBertConfig(vocab_size=40, dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=64)
    DistilBertModel(config).save_pretrained(copy)
    with pytest.raises(ModelError, match="a layer cannot be chosen for distilbert"):
        load_starting_encoder(EncoderConfig(model=str(copy), device="cpu", layer=1))
