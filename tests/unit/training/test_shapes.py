"""The shapes of the real encoders, their layers, rows and positions, at a small width."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

from xampler.config import parse_config
from xampler.models.build import EncoderConfig, load_encoder
from xampler.training.loop import train_retriever
from xampler.training.recipe import InfoNceRecipe, TrainingSpec

pytestmark = pytest.mark.usefixtures("plain_trainer")

ROWS = {"glot500": 401_145, "xlm-r": 250_002}
WIDTH, LAYERS, POSITIONS = 24, 12, 514
LAYER = 8  # the one that Glot500's own retrieval takes
TEXTS = ["the ball in a goal", "a nurse " * 200]
RECIPE = {
    "loss": "infonce",
    "learning_rate": 1e-3,
    "batch_size": 6,
    "steps": 2,
    "evaluate_every": 1,
    "train_embeddings": "seen",
}


@pytest.fixture(params=ROWS)
def shaped_encoder(request: pytest.FixtureRequest, encoder_folder: Path, tmp_path: Path) -> Path:
    """As published but for the width; random weights, the tests' words as the first rows."""
    folder = tmp_path / str(request.param)
    AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(folder)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=ROWS[request.param],
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=12,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=POSITIONS,
        type_vocab_size=1,
        pad_token_id=1,
    )
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_real_shapes_train_and_load_again(
    shaped_encoder: Path, tmp_path: Path, write_spec: Callable[..., TrainingSpec]
) -> None:
    spec = write_spec(tmp_path / "run", shaped_encoder, parse_config(InfoNceRecipe, RECIPE, "test"))
    encoder = spec.encoder.model_copy(update={"layer": LAYER, "max_tokens": 256})
    spec = spec.model_copy(update={"encoder": encoder})
    (tmp_path / "run" / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    result = train_retriever(str(tmp_path / "run" / "spec.json"))

    [rows] = [w for name, w in load_file(Path(spec.output) / "model.safetensors").items() if "word_" in name]
    [start] = [w for name, w in load_file(shaped_encoder / "model.safetensors").items() if "word_" in name]
    assert rows.shape == start.shape == (ROWS[shaped_encoder.name], WIDTH)
    assert 0 < (rows != start).any(dim=1).sum() <= result["trained_rows"] < 100

    kept = SentenceTransformer(spec.output, device="cpu")
    layers = {
        name.split("encoder.layer.")[1].split(".")[0]
        for name, _ in kept.named_parameters()
        if ".layer." in name
    }
    assert len(layers) == LAYER
    ours = load_encoder(EncoderConfig(model=spec.output, device="cpu", max_tokens=256))
    np.testing.assert_allclose(ours.encode(TEXTS), kept.encode(TEXTS), atol=1e-5)
