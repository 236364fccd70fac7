"""The whole build on a made-up corpus."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, XLMRobertaModel

from xampler.core.prompt import Demonstration, build_prompt
from xampler.core.task import Task
from xampler.errors import DataError
from xampler.mini.build import MiniModelsConfig, build_mini_models
from xampler.mini.saving import ENCODER, LANGUAGE_MODEL, write_folder

TEXTS = ["the runner sees one more runner", "moreka ka", "", "العربية 中文 \n 12"]


def test_encoder_loads_with_transformers_and_sentence_transformers_and_pools_means(mini_folder: Path) -> None:
    folder = mini_folder / ENCODER
    model = AutoModel.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(model, XLMRobertaModel)
    assert model.dtype == torch.float32
    vectors = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        np.testing.assert_allclose(vector, hidden[0].mean(dim=0).numpy(), rtol=1e-3, atol=1e-3)


def test_encoder_takes_long_texts(mini_folder: Path) -> None:
    encoder = SentenceTransformer(str(mini_folder / ENCODER), device="cpu")
    assert encoder.max_seq_length == 256
    assert np.isfinite(encoder.encode("runner " * 2_000)).all()


def test_random_sentences_have_a_high_cosine(mini_folder: Path) -> None:
    encoder = SentenceTransformer(str(mini_folder / ENCODER), device="cpu")
    vectors = encoder.encode(["the king keeps", "fever helps", "hotel leaves"], normalize_embeddings=True)
    assert (vectors @ vectors.T).min() > 0.5


def test_language_model_loads_unchanged_and_scores_a_prompt(mini_folder: Path) -> None:
    folder = mini_folder / LANGUAGE_MODEL
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(model, LlamaForCausalLM)
    assert model.dtype == torch.float32
    assert model.config.max_position_embeddings >= 2_048
    task = Task(name="t", labels=("sports", "science/technology"))
    prompt = build_prompt(task, "the king sees", [Demonstration("the coach sees", "sports")])
    whole = tokenizer(prompt + " sports", return_tensors="pt")
    with torch.inference_mode():
        assert torch.isfinite(model(**whole).logits).all()
    ids = tokenizer(prompt)["input_ids"]
    assert whole["input_ids"][0, : len(ids)].tolist() == ids
    assert ids[0] == tokenizer.bos_token_id


def test_weights_are_half_precision_and_readable_by_all(mini_folder: Path) -> None:
    for folder in (mini_folder / ENCODER, mini_folder / LANGUAGE_MODEL):
        file = folder / "model.safetensors"
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}
        assert file.stat().st_mode & 0o777 == 0o644


def test_cards_hold_licence_seed_and_figures(mini_folder: Path) -> None:
    for folder in (mini_folder / ENCODER, mini_folder / LANGUAGE_MODEL):
        card = (folder / "README.md").read_text(encoding="utf-8")
        for needed in (
            "CC BY-SA",
            "FLORES-200",
            "Apache-2.0",
            "seed 7",
            "must not be used",
            "| test |",
        ):
            assert needed in card
        assert "{" not in card


def test_same_seed_gives_the_same_models(
    mini_folder: Path, corpus_folder: Path, tiny_config: MiniModelsConfig, tmp_path: Path
) -> None:
    build_mini_models(corpus_folder, tmp_path, seed=7, config=tiny_config)
    for name in (ENCODER, LANGUAGE_MODEL):
        again, before = (load_file(root / name / "model.safetensors") for root in (tmp_path, mini_folder))
        assert all(torch.equal(again[key], before[key]) for key in before)
    assert sorted(path.name for path in tmp_path.iterdir()) == [ENCODER, LANGUAGE_MODEL]


def test_missing_folder_is_a_data_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        build_mini_models(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_labels_than_the_known_ones_are_a_data_error(corpus_folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "data"
    shutil.copytree(corpus_folder, copied)
    for path in copied.rglob("dev.tsv"):
        path.write_text(path.read_text(encoding="utf-8").replace("sports", "gossip"), encoding="utf-8")
    with pytest.raises(DataError, match="dev split has the labels gossip"):
        build_mini_models(copied, tmp_path / "out")


def test_a_failed_write_keeps_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("old", encoding="utf-8")

    def fail(fresh: Path) -> None:
        (fresh / "weights").write_text("half", encoding="utf-8")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(folder, fail)
    assert (folder / "weights").read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_folder(folder, lambda fresh: (fresh / "first").touch())
    write_folder(folder, lambda fresh: (fresh / "second").touch())
    assert [path.name for path in folder.iterdir()] == ["second"]
