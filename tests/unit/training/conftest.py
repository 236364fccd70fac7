"""A tiny encoder with a word tokenizer, and toy texts of three topics judged as a language model might."""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from xampler.core.pairing import HELD_OUT, NEGATIVE, POSITIVE, TRAIN
from xampler.models.build import EncoderConfig
from xampler.training import loop
from xampler.training.recipe import EngineConfig, Recipe, TrainingSpec

TOPICS = {
    "sports": "ball goal team match win",
    "health": "nurse drug cure ward fever",
    "travel": "train map inn sea trip",
}
FILLERS = ["the", "a", "of", "in", "was", "كان", "है"]
WORDS = ["<s>", "<pad>", "</s>", "<unk>", *FILLERS, *(w for text in TOPICS.values() for w in text.split())]
QUERIES_A_TOPIC, HELD_OUT_A_TOPIC = 12, 4
Row = dict[str, object]


def make_texts() -> dict[str, list[str]]:
    rng = np.random.default_rng(0)
    return {
        topic: [
            " ".join([*rng.choice(FILLERS, 5), *rng.choice(words.split(), 2, replace=False)])
            for _ in range(QUERIES_A_TOPIC + HELD_OUT_A_TOPIC)
        ]
        for topic, words in TOPICS.items()
    }


def make_rows() -> list[Row]:
    """Each query is judged with three texts of its topic (positive) and three of others (negative)."""
    rng = np.random.default_rng(1)
    texts = make_texts()
    everywhere = [(topic, number) for topic in texts for number in range(QUERIES_A_TOPIC + HELD_OUT_A_TOPIC)]
    rows: list[Row] = []
    for topic, number in everywhere:
        same = [place for place in everywhere if place[0] == topic and place != (topic, number)]
        other = [place for place in everywhere if place[0] != topic]
        candidates: list[Row] = []
        for role, places in ((POSITIVE, same), (NEGATIVE, other)):
            for i in rng.choice(len(places), 3, replace=False):
                candidate_topic, candidate = places[i]
                candidates.append(
                    {
                        "rank": len(candidates),
                        "candidate_id": f"{candidate_topic}{candidate:02}",
                        "candidate_text": texts[candidate_topic][candidate],
                        "role": role,
                        "same_label": role == POSITIVE,
                        "gold_log_prob": float(-rng.random() - 4 * (role == NEGATIVE)),
                    }
                )
        rows.append(
            {
                "query_id": f"{topic}{number:02}",
                "query_text": texts[topic][number],
                "split": TRAIN if number < QUERIES_A_TOPIC else HELD_OUT,
                "candidates": candidates,
            }
        )
    return rows


def make_parallels() -> list[Row]:
    """The first texts of each topic; the second language has their words in another order."""
    texts = [(f"{topic}{i}", text) for topic, rows in make_texts().items() for i, text in enumerate(rows[:5])]
    return [
        {"lang": lang, "parallel_id": key, "text": " ".join(text.split()[::step])}
        for lang, step in (("eng_Latn", 1), ("xxx_Latn", -1))
        for key, text in texts
    ]


def _write_spec(
    folder: Path, encoder: Path, recipe: Recipe, engine: EngineConfig | None = None, ranks: int = 1
) -> TrainingSpec:
    """Shards, parallel texts and ``spec.json`` in ``folder``."""
    for name, rows in (("shards", make_rows()), ("parallel", make_parallels())):
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / name / "part-0.parquet")
    spec = TrainingSpec(
        encoder=EncoderConfig(model=str(encoder), device="cpu", max_tokens=32),
        recipe=recipe,
        engine=engine or EngineConfig(),
        shards=str(folder / "shards"),
        parallel=str(folder / "parallel"),
        output=str(folder / "retriever"),
        ranks=ranks,
    )
    (folder / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    return spec


def save_tokenizer(folder: Path) -> None:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny XLM-R with random weights, more rows than words, and no dropout: ranks draw it apart."""
    return save_encoder(tmp_path_factory.mktemp("encoder"), dropout=0.0)


@pytest.fixture(scope="session")
def dropout_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the dropout of published encoders."""
    return save_encoder(tmp_path_factory.mktemp("dropout"), dropout=0.1)


def save_encoder(folder: Path, dropout: float) -> Path:
    save_tokenizer(folder)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(WORDS) + 5,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
        pad_token_id=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture
def write_spec() -> Callable[..., TrainingSpec]:
    """``write_spec(folder, encoder, recipe, engine=None, ranks=1)``: shards and ``spec.json``."""
    return _write_spec


@pytest.fixture
def plain_trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same trainer without its engine, which needs a launcher; one thread."""
    monkeypatch.setattr(loop, "prepare_engine", lambda: "none")
    monkeypatch.setattr(loop, "deepspeed_dict", lambda engine: None)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    torch.set_num_threads(1)
