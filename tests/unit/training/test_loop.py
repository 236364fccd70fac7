import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.model import BaseModel

from xampler.config import parse_config
from xampler.core.pairing import HELD_OUT, TRAIN
from xampler.errors import TrainingError
from xampler.models.build import EncoderConfig, load_encoder
from xampler.training import loop
from xampler.training.embeddings import choose_trained_rows
from xampler.training.evaluation import HeldOutEvaluator
from xampler.training.loop import check_cosines, train_retriever
from xampler.training.recipe import (
    RESULT_FILE,
    ContrastiveRecipe,
    DistillRecipe,
    EngineConfig,
    InfoNceRecipe,
    Recipe,
    TrainingSpec,
)
from xampler.training.shards import JudgedQuery, stream_queries

pytestmark = pytest.mark.usefixtures("plain_trainer")

STEPS, EVALUATE_EVERY = 24, 8
SCHEDULE = {"learning_rate": 3e-3, "steps": STEPS, "evaluate_every": EVALUATE_EVERY, "max_tokens": 32}
WriteSpec = Callable[..., TrainingSpec]
Train = Callable[..., dict[str, Any]]
Figures = dict[str, float]


def infonce(**changes: object) -> InfoNceRecipe:
    values = SCHEDULE | {"loss": "infonce", "batch_size": 4, "temperature": 0.1}
    return parse_config(InfoNceRecipe, values | changes, "test")


def contrastive(**changes: object) -> ContrastiveRecipe:
    return parse_config(
        ContrastiveRecipe, SCHEDULE | {"loss": "contrastive", "batch_size": 16} | changes, "test"
    )


def distill(**changes: object) -> DistillRecipe:
    values = SCHEDULE | {"loss": "distill", "batch_size": 6, "candidates": 5, "temperature": 0.1}
    return parse_config(DistillRecipe, values | changes, "test")


@pytest.fixture
def train(tmp_path: Path, encoder_folder: Path, write_spec: WriteSpec) -> Callable[..., dict[str, Any]]:
    """``train(recipe, folder=tmp_path, engine=None)``: in this process, without an engine."""

    def run(recipe: Recipe, folder: Path = tmp_path, engine: EngineConfig | None = None) -> dict[str, Any]:
        write_spec(folder, encoder_folder, recipe, engine)
        return train_retriever(str(folder / "spec.json"))

    return run


def logged(history: list[dict[str, Any]], name: str) -> list[float]:
    return [entry[name] for entry in history if name in entry]


def mean_average_precision(folder: Path, held_out: Sequence[JudgedQuery]) -> float:
    """By counting: at each positive in the ranking, the share of positives down to there."""
    encoder = load_encoder(EncoderConfig(model=str(folder), device="cpu", max_tokens=32))
    precisions: list[float] = []
    for query in held_out:
        candidates = [(one.text, True) for one in query.positives] + [
            (one.text, False) for one in query.negatives
        ]
        vector_D, *others_CD = encoder.encode([query.text, *(text for text, _ in candidates)])
        cosines = [float(v @ vector_D / np.linalg.norm(v) / np.linalg.norm(vector_D)) for v in others_CD]
        ranked = [candidates[i][1] for i in np.argsort(cosines)[::-1]]
        hits: list[float] = [sum(ranked[: i + 1]) / (i + 1) for i, positive in enumerate(ranked) if positive]
        precisions.append(sum(hits) / len(hits))
    return sum(precisions) / len(precisions)


@pytest.mark.parametrize(
    "recipe",
    [infonce(), contrastive(), distill(), infonce(positives_by="label", train_embeddings="seen")],
    ids=["infonce", "contrastive", "distill", "gold-seen"],
)
def test_training_learns_and_keeps_the_best_checkpoint(
    tmp_path: Path, encoder_folder: Path, train: Train, recipe: Recipe
) -> None:
    result = train(recipe)
    losses, maps = (logged(result["history"], name) for name in ("loss", "eval_held_out_map"))
    assert len(losses) == STEPS
    assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:6])
    assert len(maps) == STEPS // EVALUATE_EVERY
    assert result["best"] == max(maps)
    assert result["after"]["held_out_map"] == pytest.approx(result["best"], abs=1e-6)
    held_out = list(stream_queries(str(tmp_path / "shards"), HELD_OUT, recipe))
    kept = mean_average_precision(tmp_path / "retriever", held_out)
    assert kept == pytest.approx(result["best"], abs=1e-6)
    untrained = mean_average_precision(encoder_folder, held_out)
    assert kept > untrained + 0.05
    assert result["before"]["held_out_map"] == pytest.approx(untrained, abs=1e-6)
    assert {"parallel", "held_out_ndcg", "held_out_recall_at_10", "held_out_margin"} <= set(result["before"])
    assert all(value > 0 for value in logged(result["history"], "tokens_per_s"))


def test_result_stands_beside_the_weights_and_nothing_else_is_left(tmp_path: Path, train: Train) -> None:
    result = train(infonce(steps=2, evaluate_every=1))
    written = json.loads((tmp_path / "retriever" / RESULT_FILE).read_text(encoding="utf-8"))
    assert written == result
    assert written["seconds"] > 0
    assert (written["batch_size"], written["steps"], written["warnings"]) == (4, 2, [])
    assert -1 <= written["mean_cosine"] <= 1
    assert [entry["step"] for entry in written["history"] if "eval_held_out_map" in entry] == [1, 2]
    left = {"shards", "parallel", "spec.json", "retriever", "retriever.rank0.lock"}
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == left
    assert train_retriever(str(tmp_path / "spec.json")) == result, "what is finished is not done again"


def test_same_seed_same_weights_another_seed_other_rows(tmp_path: Path, train: Train) -> None:
    losses = []
    for number, seed in enumerate((0, 0, 1)):
        result = train(infonce(steps=3, seed=seed), tmp_path / str(number))
        losses.append(logged(result["history"], "loss"))
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Without the pooler: no checkpoint has one, so that each load draws it anew."""
    named = SentenceTransformer(str(folder), device="cpu").named_parameters()
    return {name: weight for name, weight in named if "pooler" not in name}


def rows_of(folder: Path) -> torch.Tensor:
    [rows] = [weight for name, weight in weights_of(folder).items() if "word_embeddings" in name]
    return rows.detach()


def test_frozen_embeddings_stay_and_the_rest_learns(
    tmp_path: Path, encoder_folder: Path, train: Train
) -> None:
    before = weights_of(encoder_folder)
    assert train(infonce(train_embeddings="none"))["trained_rows"] == 0
    after = weights_of(tmp_path / "retriever")
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert not any("word_embeddings" in name for name in moved)
    assert any("encoder.layer" in name for name in moved)


def test_only_rows_of_seen_words_move(tmp_path: Path, encoder_folder: Path, train: Train) -> None:
    # The five last rows are no words, so no text has them; weight decay moves them where all are trained.
    start = rows_of(encoder_folder)
    train(infonce(train_embeddings="all", weight_decay=0.1), tmp_path / "all")
    result = train(infonce(train_embeddings="seen", weight_decay=0.1), tmp_path / "seen")
    every, seen = (rows_of(tmp_path / name / "retriever") for name in ("all", "seen"))
    assert not torch.equal(every[-5:], start[-5:])
    assert torch.equal(seen[-5:], start[-5:])
    moved = (seen != start).any(dim=1)
    assert moved.sum() == result["trained_rows"]
    assert 0 < result["trained_rows"] < len(start) - 5
    torch.testing.assert_close(seen[moved], every[moved], atol=2e-4, rtol=0)


def test_share_of_the_start_stays_in_the_kept_weights(
    tmp_path: Path, encoder_folder: Path, train: Train
) -> None:
    start = weights_of(encoder_folder)
    kept = []
    for share in (0.0, 0.25):
        folder = tmp_path / str(share)
        train(infonce(steps=8, start_share=share, train_embeddings="seen"), folder)
        kept.append(weights_of(folder / "retriever"))
    trained, mixed = kept
    assert any(not torch.equal(trained[name], start[name]) for name in start)
    for name, weight in mixed.items():
        torch.testing.assert_close(weight, 0.25 * start[name] + 0.75 * trained[name])


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Every evaluation is worse than the one before; the weights that each one saw."""
    seen: list[torch.Tensor] = []

    def evaluate(self: object, model: BaseModel, *_: object, **__: object) -> dict[str, float]:
        seen.append(next(model.parameters()).detach().clone())
        return {"held_out_map": 1 / len(seen)}

    monkeypatch.setattr(HeldOutEvaluator, "__call__", evaluate)
    return seen


def test_an_early_checkpoint_is_kept_where_it_was_the_best(
    tmp_path: Path, train: Train, falling: list[torch.Tensor]
) -> None:
    result = train(infonce(steps=4, evaluate_every=1))
    before, first, *later, after = falling
    assert len(later) == 3
    assert result["best"] == 1 / 2
    kept = next(SentenceTransformer(str(tmp_path / "retriever"), device="cpu").parameters())
    assert torch.equal(kept, first)
    assert torch.equal(after, first)
    assert not any(torch.equal(kept, other) for other in (before, *later))


def test_training_stops_when_nothing_gets_better(train: Train, falling: list[torch.Tensor]) -> None:
    result = train(infonce(steps=20, evaluate_every=1, patience=2))
    assert len(logged(result["history"], "loss")) == 3
    assert len(falling) == 1 + 3 + 1


def test_parallel_texts_can_choose_the_checkpoint(train: Train) -> None:
    result = train(infonce(metric="parallel"))
    assert result["best"] == max(logged(result["history"], "eval_parallel"))


def test_a_metric_that_cannot_be_had_is_refused(tmp_path: Path, encoder_folder: Path, train: Train) -> None:
    train(infonce(steps=1))
    spec = json.loads((tmp_path / "spec.json").read_text(encoding="utf-8"))
    spec |= {"parallel": None, "output": str(tmp_path / "other")}
    spec["recipe"]["metric"] = "parallel"
    (tmp_path / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(TrainingError, match="parallel_id"):
        train_retriever(str(tmp_path / "spec.json"))


def test_without_held_out_queries_of_both_roles_the_last_weights_are_kept(
    tmp_path: Path, encoder_folder: Path, write_spec: WriteSpec
) -> None:
    spec = write_spec(tmp_path, encoder_folder, infonce(steps=2, evaluate_every=1))
    keep_split(Path(spec.shards), TRAIN)
    result = train_retriever(str(tmp_path / "spec.json"))
    assert result["best"] is None
    [warning] = result["warnings"]
    assert "the weights of the last step are kept" in warning
    assert set(result["after"]) == {"parallel"}
    assert (tmp_path / "retriever" / RESULT_FILE).is_file()


def test_patience_without_held_out_queries_of_both_roles_is_refused(
    tmp_path: Path, encoder_folder: Path, write_spec: WriteSpec
) -> None:
    spec = write_spec(tmp_path, encoder_folder, infonce(patience=2))
    keep_split(Path(spec.shards), TRAIN)
    with pytest.raises(
        TrainingError, match=r"patience: 2 .* no held-out query has both .* mine.held_out_share"
    ):
        train_retriever(str(tmp_path / "spec.json"))


def test_patience_counts_by_parallel_texts_where_these_choose(
    tmp_path: Path, encoder_folder: Path, write_spec: WriteSpec
) -> None:
    recipe = infonce(steps=2, evaluate_every=1, patience=2, metric="parallel")
    spec = write_spec(tmp_path, encoder_folder, recipe)
    keep_split(Path(spec.shards), TRAIN)
    result = train_retriever(str(tmp_path / "spec.json"))
    assert (result["best"] is not None, result["warnings"]) == (True, [])


def test_smaller_steps_are_told_to_the_user(train: Train) -> None:
    result = train(infonce(batch_size=64, steps=None, epochs=1, evaluate_every=50))
    assert 1 < result["batch_size"] < 36
    assert result["steps"] == -(-36 // result["batch_size"])  # queries, rounded up
    [warning] = result["warnings"]
    assert f"steps of {result['batch_size']} rows in place of batch_size 64" in warning


def test_texts_are_shorter_in_training_alone(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[int, int | None]] = []

    def evaluate(
        self: object, model: SentenceTransformer, *_: object, steps: int = 0, **__: object
    ) -> Figures:
        taken.append((steps, model.max_seq_length))
        return {"held_out_map": 0.0}

    monkeypatch.setattr(HeldOutEvaluator, "__call__", evaluate)
    train(infonce(steps=2, evaluate_every=1, max_tokens=8))
    assert taken == [(0, 32), (1, 8), (2, 8), (0, 32)]
    saved = EncoderConfig(model=str(tmp_path / "retriever"), device="cpu")
    assert load_encoder(saved).max_tokens == 32


def test_texts_beyond_the_models_positions_are_cut_and_it_is_said(
    tmp_path: Path, encoder_folder: Path, write_spec: WriteSpec
) -> None:
    spec = write_spec(tmp_path, encoder_folder, infonce(steps=1, evaluate_every=1, max_tokens=300))
    lengthen_texts(Path(spec.shards))
    longer = spec.model_copy(update={"encoder": spec.encoder.model_copy(update={"max_tokens": 256})})
    (tmp_path / "spec.json").write_text(longer.model_dump_json(), encoding="utf-8")
    result = train_retriever(str(tmp_path / "spec.json"))
    [warning] = result["warnings"]
    assert "max_tokens 256" in warning
    assert "texts of 38 tokens at most" in warning  # 40 positions, of which padding takes two


def lengthen_texts(shards: Path) -> None:
    rows = pq.read_table(shards / "part-0.parquet").to_pylist()
    for row in rows:
        row["query_text"] += " ball" * 60
    pq.write_table(pa.Table.from_pylist(rows), shards / "part-0.parquet")


def test_a_rank_measures_on_its_own_device(
    tmp_path: Path, encoder_folder: Path, write_spec: WriteSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    class MeasuredError(Exception):
        pass

    def evaluate(self: object, model: SentenceTransformer) -> Figures:
        raise MeasuredError(model.device.type)

    write_spec(tmp_path, encoder_folder, infonce())
    monkeypatch.setattr(loop, "rank_device", lambda: torch.device("meta"))
    monkeypatch.setattr(HeldOutEvaluator, "__call__", evaluate)
    with pytest.raises(MeasuredError, match="meta"):
        train_retriever(str(tmp_path / "spec.json"))


@pytest.mark.parametrize(
    ("has_gpu", "local_rank", "device"),
    [(False, "1", "cpu"), (True, "1", "cuda:1"), (True, None, "cuda:0")],
)
def test_device_of_a_rank(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, local_rank: str | None, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert loop.rank_device() == torch.device(device)


def test_rows_that_are_trained_stay_on_the_models_device(encoder_folder: Path) -> None:
    model = SentenceTransformer(str(encoder_folder), device="cpu").to("meta")
    assert (
        choose_trained_rows(model, infonce(train_embeddings="seen"), ["ball goal"]) == 4
    )  # <s> and </s> too
    assert {weight.device.type for weight in (*model.parameters(), *model.buffers())} == {"meta"}


def keep_split(shards: Path, split: str) -> None:
    rows = pq.read_table(shards / "part-0.parquet").to_pylist()
    kept = [row for row in rows if row["split"] == split]
    pq.write_table(pa.Table.from_pylist(kept), shards / "part-0.parquet")


@pytest.mark.parametrize(("layer", "pooling"), [(1, "cls"), ("weighted", "mean")])
def test_layers_and_pooling_are_trained_and_kept(
    tmp_path: Path, encoder_folder: Path, write_spec: WriteSpec, layer: int | str, pooling: str
) -> None:
    spec = write_spec(tmp_path, encoder_folder, infonce(steps=6, evaluate_every=3))
    encoder = spec.encoder.model_copy(update={"layer": layer, "pooling": pooling})
    changed = spec.model_copy(update={"encoder": encoder})
    (tmp_path / "spec.json").write_text(changed.model_dump_json(), encoding="utf-8")
    texts = ["ball goal team", "the nurse was in"]
    before = load_encoder(encoder).encode(texts)
    train_retriever(str(tmp_path / "spec.json"))
    trained = SentenceTransformer(spec.output, device="cpu")
    kept = load_encoder(EncoderConfig(model=spec.output, device="cpu")).encode(texts)
    np.testing.assert_allclose(kept, trained.encode(texts), atol=1e-5)
    assert not np.allclose(kept, before, atol=1e-3)
    if layer == "weighted":
        [file] = Path(spec.output).glob("*WeightedLayerPooling/model.safetensors")
        first, second = load_file(file)["layer_weights"].tolist()
        assert first != second
    else:
        config = json.loads((Path(spec.output) / "config.json").read_text(encoding="utf-8"))
        assert config["num_hidden_layers"] == 1


def test_cheaper_steps_compute_the_same(tmp_path: Path, train: Train) -> None:
    """Pairs are judged one by one, so micro-batches and recomputed activations change nothing."""
    recipe = contrastive(steps=4, batch_size=12)
    cheap = EngineConfig(accumulation_steps=3, gradient_checkpointing=True)
    plain = train(recipe, tmp_path / "plain")
    again = train(recipe, tmp_path / "cheap", cheap)
    assert logged(again["history"], "loss") == pytest.approx(logged(plain["history"], "loss"), abs=1e-4)


def test_bfloat16_learns_as_well(tmp_path: Path, train: Train) -> None:
    result = train(infonce(), tmp_path, EngineConfig(bf16=True))
    losses = logged(result["history"], "loss")
    assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:6])


@pytest.mark.parametrize("broken", ["save", "rename"])
def test_half_written_model_never_takes_the_place_of_a_whole_one(
    tmp_path: Path,
    encoder_folder: Path,
    write_spec: WriteSpec,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
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
    assert mean_average_precision(Path(spec.output), list(stream_queries(spec.shards, HELD_OUT, spec.recipe)))
    assert not partial.exists()


def test_shards_without_training_pairs_are_refused_before_training(
    tmp_path: Path, encoder_folder: Path, write_spec: WriteSpec
) -> None:
    spec = write_spec(tmp_path, encoder_folder, contrastive())
    keep_split(Path(spec.shards), HELD_OUT)
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
