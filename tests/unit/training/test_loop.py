import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.model import BaseModel
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from xampler.config import parse_config
from xampler.core.pairing import HELD_OUT, NEGATIVE, POSITIVE, TRAIN
from xampler.errors import TrainingError
from xampler.models.build import EncoderConfig, load_encoder
from xampler.training import loop
from xampler.training.dataset import JudgedQuery, held_out_samples, read_queries
from xampler.training.loop import check_cosines, train_retriever
from xampler.training.recipe import (
    RESULT_FILE,
    ContrastiveRecipe,
    InfoNceRecipe,
    Recipe,
    TrainingSpec,
)

TOPICS = {
    "sports": "ball goal team match win",
    "health": "nurse drug cure ward fever",
    "travel": "train map inn sea trip",
}
FILLERS = ["the", "a", "of", "in", "was", "\u0643\u0627\u0646", "\u662f"]
QUERIES_A_TOPIC, HELD_OUT_A_TOPIC = 12, 4
STEPS, EVALUATE_EVERY = 24, 8
SCHEDULE = {"learning_rate": 3e-3, "steps": STEPS, "evaluate_every": EVALUATE_EVERY, "max_tokens": 32}


def make_texts() -> dict[str, list[str]]:
    rng = np.random.default_rng(0)
    return {
        topic: [
            " ".join([*rng.choice(FILLERS, 5), *rng.choice(words.split(), 2, replace=False)])
            for _ in range(QUERIES_A_TOPIC + HELD_OUT_A_TOPIC)
        ]
        for topic, words in TOPICS.items()
    }


def make_rows() -> list[dict[str, str]]:
    """Each query is judged with three texts of its topic (positive) and three of others (negative)."""
    rng = np.random.default_rng(1)
    texts = make_texts()
    everywhere = [(topic, number) for topic in texts for number in range(QUERIES_A_TOPIC + HELD_OUT_A_TOPIC)]
    rows = []
    for topic, number in everywhere:
        same = [place for place in everywhere if place[0] == topic and place != (topic, number)]
        other = [place for place in everywhere if place[0] != topic]
        for role, places in ((POSITIVE, same), (NEGATIVE, other)):
            for i in rng.choice(len(places), 3, replace=False):
                candidate_topic, candidate = places[i]
                rows.append(
                    {
                        "query_id": f"{topic}{number:02}",
                        "query_text": texts[topic][number],
                        "candidate_id": f"{candidate_topic}{candidate:02}",
                        "candidate_text": texts[candidate_topic][candidate],
                        "role": role,
                        "split": TRAIN if number < QUERIES_A_TOPIC else HELD_OUT,
                    }
                )
    return rows


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny XLM-R with random weights and a word tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    words = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        *FILLERS,
        *(word for text in TOPICS.values() for word in text.split()),
    ]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
        pad_token_id=1,
    )
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def plain_trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same trainer without its engine, which needs a launcher; one thread."""
    monkeypatch.setattr(loop, "prepare_engine", lambda: "none")
    monkeypatch.setattr(loop, "deepspeed_dict", lambda recipe: None)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    torch.set_num_threads(1)


def infonce(**changes: object) -> InfoNceRecipe:
    values = SCHEDULE | {"loss": "infonce", "batch_size": 6, "temperature": 0.1}
    return parse_config(InfoNceRecipe, values | changes, "test")


def contrastive(**changes: object) -> ContrastiveRecipe:
    return parse_config(
        ContrastiveRecipe, SCHEDULE | {"loss": "contrastive", "batch_size": 16} | changes, "test"
    )


def write_spec(folder: Path, encoder: Path, recipe: Recipe) -> TrainingSpec:
    shards = folder / "shards"
    shards.mkdir()
    pq.write_table(pa.Table.from_pylist(make_rows()), shards / "part-0.parquet")
    spec = TrainingSpec(
        encoder=EncoderConfig(model=str(encoder), device="cpu", max_tokens=32),
        recipe=recipe,
        shards=str(shards),
        output=str(folder / "retriever"),
        ranks=1,
    )
    (folder / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    return spec


def train(folder: Path, encoder: Path, recipe: Recipe) -> dict[str, Any]:
    write_spec(folder, encoder, recipe)
    return train_retriever(str(folder / "spec.json"))


def logged(history: list[dict[str, Any]], name: str) -> list[float]:
    return [entry[name] for entry in history if name in entry]


def mean_average_precision(folder: Path, held_out: Sequence[JudgedQuery]) -> float:
    """By counting: at each positive in the ranking, the share of positives down to there."""
    encoder = load_encoder(EncoderConfig(model=str(folder), device="cpu", max_tokens=32))
    precisions: list[float] = []
    for query in held_out:
        candidates = [(text, True) for _, text in query.positives] + [
            (text, False) for _, text in query.negatives
        ]
        vector_D, *others_CD = encoder.encode([query.text, *(text for text, _ in candidates)])
        cosines = [float(v @ vector_D / np.linalg.norm(v) / np.linalg.norm(vector_D)) for v in others_CD]
        ranked = [candidates[i][1] for i in np.argsort(cosines)[::-1]]
        hits: list[float] = [sum(ranked[: i + 1]) / (i + 1) for i, positive in enumerate(ranked) if positive]
        precisions.append(sum(hits) / len(hits))
    return sum(precisions) / len(precisions)


@pytest.mark.parametrize("recipe", [infonce(), contrastive()], ids=["infonce", "contrastive"])
def test_training_learns_and_keeps_the_best_checkpoint(
    tmp_path: Path, encoder_folder: Path, recipe: Recipe
) -> None:
    result = train(tmp_path, encoder_folder, recipe)
    losses, maps = (logged(result["history"], name) for name in ("loss", "eval_held_out_map"))
    assert len(losses) == STEPS
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])
    assert len(maps) == STEPS // EVALUATE_EVERY
    assert result["best"] == max(maps)
    held_out = read_queries(str(tmp_path / "shards"), HELD_OUT)
    kept = mean_average_precision(tmp_path / "retriever", held_out)
    assert kept == pytest.approx(result["best"], abs=1e-6)
    assert kept > mean_average_precision(encoder_folder, held_out) + 0.05


def test_result_stands_beside_the_weights_and_nothing_else_is_left(
    tmp_path: Path, encoder_folder: Path
) -> None:
    result = train(tmp_path, encoder_folder, infonce(steps=2, evaluate_every=1))
    written = json.loads((tmp_path / "retriever" / RESULT_FILE).read_text(encoding="utf-8"))
    assert written == result
    assert written["seconds"] > 0
    assert -1 <= written["mean_cosine"] <= 1
    assert [entry["step"] for entry in written["history"] if "eval_held_out_map" in entry] == [1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "shards", "spec.json", "retriever"}


def test_same_seed_same_weights_another_seed_other_rows(tmp_path: Path, encoder_folder: Path) -> None:
    losses = []
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        losses.append(logged(train(folder, encoder_folder, infonce(steps=3, seed=seed))["history"], "loss"))
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Without the pooler: no checkpoint has one, so that each load draws it anew."""
    named = SentenceTransformer(str(folder), device="cpu").named_parameters()
    return {name: weight for name, weight in named if "pooler" not in name}


def test_frozen_embeddings_stay_and_the_rest_learns(tmp_path: Path, encoder_folder: Path) -> None:
    before = weights_of(encoder_folder)
    train(tmp_path, encoder_folder, infonce(train_embeddings="none"))
    after = weights_of(tmp_path / "retriever")
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert not any("word_embeddings" in name for name in moved)
    assert any("encoder.layer" in name for name in moved)


def test_share_of_the_start_stays_in_the_kept_weights(tmp_path: Path, encoder_folder: Path) -> None:
    start = weights_of(encoder_folder)
    kept = []
    for share in (0.0, 0.25):
        folder = tmp_path / str(share)
        folder.mkdir()
        train(folder, encoder_folder, infonce(steps=8, start_share=share))
        kept.append(weights_of(folder / "retriever"))
    trained, mixed = kept
    assert any(not torch.equal(trained[name], start[name]) for name in start)
    for name, weight in mixed.items():
        torch.testing.assert_close(weight, 0.25 * start[name] + 0.75 * trained[name])


class FallingEvaluator(SentenceEvaluator):
    """Finds each evaluation worse than the one before, and keeps the weights it saw."""

    seen: list[torch.Tensor]

    def __init__(self, samples: object, name: str, show_progress_bar: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        type(self).seen = []

    def __call__(
        self, model: BaseModel, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        self.seen.append(next(model.parameters()).detach().clone())
        return {"held_out_map": 1 / len(self.seen)}


def test_an_early_checkpoint_is_kept_where_it_was_the_best(
    tmp_path: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RerankingEvaluator", FallingEvaluator)
    result = train(tmp_path, encoder_folder, infonce(steps=4, evaluate_every=1))
    first, *later = FallingEvaluator.seen
    assert len(later) == 3
    assert result["best"] == 1.0
    kept = next(SentenceTransformer(str(tmp_path / "retriever"), device="cpu").parameters())
    assert torch.equal(kept, first)
    assert not any(torch.equal(kept, other) for other in later)


def test_without_held_out_queries_of_both_roles_the_last_weights_are_kept(
    tmp_path: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "held_out_samples", lambda queries: [])
    result = train(tmp_path, encoder_folder, infonce(steps=2, evaluate_every=1))
    assert result["best"] is None
    assert (tmp_path / "retriever" / RESULT_FILE).is_file()


@pytest.mark.parametrize("broken", ["save", "rename"])
def test_half_written_model_never_takes_the_place_of_a_whole_one(
    tmp_path: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    partial = tmp_path / "retriever.partial"
    whole = getattr(owner := SentenceTransformer if broken == "save" else Path, broken)

    def die_when_half_done(self: object, *args: object, **kwargs: object) -> object:
        if str(partial) in (str(self), *map(str, args)):
            if broken == "save":
                partial.mkdir()
                (partial / "config.json").write_text("{")
            raise KeyboardInterrupt
        return whole(self, *args, **kwargs)

    spec = write_spec(tmp_path, encoder_folder, infonce(steps=1, evaluate_every=1))
    with monkeypatch.context() as patch:
        patch.setattr(owner, broken, die_when_half_done)
        with pytest.raises(KeyboardInterrupt):
            train_retriever(str(tmp_path / "spec.json"))
    assert partial.exists()
    assert not Path(spec.output).exists()
    train_retriever(str(tmp_path / "spec.json"))
    assert mean_average_precision(Path(spec.output), read_queries(spec.shards, HELD_OUT)) > 0
    assert not partial.exists()


def test_shards_without_training_pairs_are_refused_before_training(
    tmp_path: Path, encoder_folder: Path
) -> None:
    spec = write_spec(tmp_path, encoder_folder, infonce())
    held_out = [row for row in make_rows() if row["split"] == HELD_OUT]
    pq.write_table(pa.Table.from_pylist(held_out), Path(spec.shards) / "part-0.parquet")
    with pytest.raises(TrainingError, match="no train pair"):
        train_retriever(str(tmp_path / "spec.json"))
    assert not Path(spec.output).exists()


class FixedEncoder:
    """Gives each text, a number, the unit vector at that angle in degrees."""

    def encode(
        self, texts: Sequence[str], normalize_embeddings: bool, show_progress_bar: bool
    ) -> NDArray[np.float32]:
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def cosines_of(angles: Sequence[int], recipe: Recipe) -> tuple[float, list[str]]:
    queries = [JudgedQuery(str(number), str(angle)) for number, angle in enumerate(angles)]
    return check_cosines(cast(SentenceTransformer, FixedEncoder()), queries, recipe)


def test_margin_that_cannot_bite_is_said() -> None:
    mean, [warning] = cosines_of([0, 90, 180, 270], contrastive(margin=0.5))
    assert mean == pytest.approx(-1 / 3, abs=0.05)  # of each four, two at right angles and one opposite
    assert "margin 0.5" in warning
    assert f"{mean:.2f}" in warning


@pytest.mark.parametrize(
    ("angles", "recipe"),
    [
        ([0, 90, 180, 270], infonce()),
        ([0, 90, 180, 270], contrastive(margin=1.1)),  # right angles lie within
        ([0, 1, 2, 3], contrastive(margin=0.5)),
        ([0, 59, 118, 177], contrastive(margin=0.5)),  # neighbours are within 60 degrees
    ],
    ids=["infonce", "wide", "near", "some"],
)
def test_margin_that_bites_is_not_warned_of(angles: list[int], recipe: Recipe) -> None:
    assert cosines_of(angles, recipe)[1] == []


def test_margin_is_measured_as_cosine_distance() -> None:
    # Neighbours 61 degrees apart: distance 1 - cos 61 = 0.515.
    assert cosines_of([0, 61, 122], contrastive(margin=0.5))[1] != []
    assert cosines_of([0, 61, 122], contrastive(margin=0.52))[1] == []


def test_mean_cosine_of_different_queries_by_hand() -> None:
    assert cosines_of([0, 60], infonce())[0] == pytest.approx(0.5, abs=1e-6)


def test_one_query_has_no_pair_to_compare() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cosines_of([0], contrastive()) == (1.0, [])


def test_held_out_samples_of_the_toy_data(tmp_path: Path, encoder_folder: Path) -> None:
    spec = write_spec(tmp_path, encoder_folder, infonce())
    assert len(held_out_samples(read_queries(spec.shards, HELD_OUT))) == HELD_OUT_A_TOPIC * len(TOPICS)


def test_deepspeed_steps_equal_plain_steps(tmp_path: Path, encoder_folder: Path) -> None:
    """Starts one DeepSpeed rank on the CPU in a process of its own, which takes some 20 s."""
    for name in ("plain", "deepspeed"):
        (tmp_path / name).mkdir()
    plain = train(tmp_path / "plain", encoder_folder, infonce())
    write_spec(tmp_path / "deepspeed", encoder_folder, infonce())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    rank = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    cpu = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    code = "import sys; from xampler.training.loop import train_retriever; train_retriever(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "deepspeed" / "spec.json")],
        env=os.environ | rank | cpu | {"HF_DATASETS_CACHE": str(tmp_path / "cache")},
        check=True,
        timeout=600,
    )
    result = json.loads((tmp_path / "deepspeed" / "retriever" / RESULT_FILE).read_text(encoding="utf-8"))
    for name in ("loss", "grad_norm", "learning_rate", "eval_held_out_map"):
        assert logged(result["history"], name) == pytest.approx(logged(plain["history"], name), abs=2e-3), (
            name
        )
    held_out = read_queries(str(tmp_path / "plain" / "shards"), HELD_OUT)
    kept = mean_average_precision(tmp_path / "deepspeed" / "retriever", held_out)
    assert kept == pytest.approx(result["best"], abs=1e-6)
