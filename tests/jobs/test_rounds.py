"""An iterative recipe: later rounds cost the new pairs only, and what a broken run finished is kept.

And ranks on executors make what one plain process makes.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow.entities import Run
from pyspark.sql import functions as F
from safetensors.torch import load_file

from xampler.core.pairing import POSITIVE, PROPOSED, TRAIN
from xampler.errors import ConfigError, TrainingError
from xampler.models.build import EncoderConfig
from xampler.pipeline import train
from xampler.pipeline.context import Context
from xampler.pipeline.lineage import _versions_read
from xampler.pipeline.plan import parts_of, run_stages
from xampler.pipeline.stage import find_done, run_part
from xampler.tables.schema import CANDIDATES, PAIRS, SCORES, TRAINING_PAIRS
from xampler.training import loop
from xampler.training.recipe import InfoNceRecipe, TrainingSpec, work_folder

RECIPE = "train.recipes.again={loss: infonce, learning_rate: 3.0e-4, batch_size: 8, steps: 4, rounds: 2, \
positives_by: label, evaluate_every: 2, max_tokens: 32, train_embeddings: none}"
PAIR = ("query_id", "candidate_id")


def test_rounds(open_sample: Callable[..., Context], monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[TrainingSpec] = []
    broken = True

    def in_this_process(context: Context, spec_file: Path, *_: object) -> None:
        """Without DeepSpeed's launcher, which test_chain.py starts."""
        spec = TrainingSpec.model_validate_json(spec_file.read_text(encoding="utf-8"))
        if broken and len(launched) == 1:
            raise TrainingError("broken")
        check_training_set(context, [*launched, spec])
        launched.append(spec)
        loop.train_retriever(str(spec_file))

    monkeypatch.setattr(train, "_launch", in_this_process)
    monkeypatch.setattr(loop, "prepare_engine", lambda: "none")
    monkeypatch.setattr(loop, "deepspeed_dict", lambda engine: None)
    context = open_sample(RECIPE)
    run_stages(context, ["ingest", "propose", "score", "mine"])
    scored = context.store.read(SCORES).count()
    mined_at = context.store.version(TRAINING_PAIRS)

    [part] = [part for part in parts_of(context, "train") if part.name == "again"]
    with pytest.raises(TrainingError, match="broken"):
        train_again(context)
    pairs = context.store.read(PAIRS)
    first, second = (
        pairs.where(F.col("proposer") == proposer).select(*PAIR) for proposer in (PROPOSED, "again/2")
    )
    new = second.exceptAll(first).count()
    assert first.count() == second.count() == 56 * 4
    assert 0 < new < 56 * 4
    assert context.store.read(SCORES).count() == scored + new
    [broken_run] = runs_of(context)
    assert steps_of(context, broken_run) == [2, 4], "the first round's curve is there"

    # Ranks that outlive the driver go on reading what it exported.
    sets = context_folder(context).glob("again-*.training_set")
    [exported] = [folder for folder in sets if ".round" not in folder.name]
    before = {file: file.stat().st_mtime_ns for file in exported.rglob("*.parquet")}
    second_version = context.store.version(TRAINING_PAIRS)
    broken = False
    with monkeypatch.context() as patch:
        patch.setattr(train, "_complete", keep_and_complete(exported, before))
        train_again(open_sample(RECIPE))
    assert context.store.read(SCORES).count() == scored + new, "what the broken run scored is kept"
    assert len(launched) == 2, "its first round as well"
    one, two = launched
    assert two.encoder.model == one.output, "the second round starts from the first one's weights"
    check_signal(context)
    found = find_done(open_sample(RECIPE), part)
    assert found is not None
    check_kept(Path(found.result["model_dir"]))

    run = runs_of(context)[0]
    assert steps_of(context, run) == [2, 4, 6, 8]
    assert run.data.metrics["train/rows"] == 2 * 56 * 4
    assert _versions_read(context, found.run_id)["training_pairs"] == second_version
    params = run.data.params
    assert mined_at is not None
    assert params["round1.version_in.training_pairs"] == str(mined_at)
    assert params["round2.version_in.training_pairs"] == str(second_version)
    assert params["round1.batch_size"] == "8"
    assert params["round2.steps"] == "4"

    others = context.store.read(TRAINING_PAIRS).where("proposer = 'again/2'")
    others = others.withColumn("proposer", F.lit("other/2"))
    context.store.replace(TRAINING_PAIRS, others, experiment=context.name, proposer="other/2")
    train_again(open_sample(RECIPE))
    assert len(launched) == 2, "a retriever that is complete needs none of what was dropped"
    run = runs_of(context)[0]
    assert run.data.metrics["train/rows"] == 2 * 56 * 4, "pairs of another recipe's rounds do not count"
    assert run.data.params["version_in.training_pairs"] == str(second_version)


def test_recipes_that_a_run_would_train_are_checked_first(open_sample: Callable[..., Context]) -> None:
    unused = RECIPE.replace("rounds: 2", "hard_negatives: 4")
    with pytest.raises(ConfigError, match=r"train\.recipes\.again: hard_negatives 4 needs 5 candidates"):
        run_stages(open_sample(unused))


def train_again(context: Context) -> None:
    for part in parts_of(context, "train"):
        if part.name == "again":
            run_part(context, part)


def context_folder(context: Context) -> Path:
    return Path(context.engines.env.work_dir) / context.name / "retrievers"


def keep_and_complete(exported: Path, before: dict[Path, int]) -> Callable[..., None]:
    complete = train._complete

    def check(folder: Path, rounds: list[train.Round]) -> None:
        assert {file: file.stat().st_mtime_ns for file in exported.rglob("*.parquet")} == before
        complete(folder, rounds)

    return check


def runs_of(context: Context) -> list[Run]:
    """Of the recipe, the latest first."""
    client = context.engines.tracker.client
    experiment = client.get_experiment_by_name(context.name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], "run_name = 'train/again'"))


def steps_of(context: Context, run: Run) -> list[int]:
    history = context.engines.tracker.client.get_metric_history(run.info.run_id, "train/eval_held_out_map")
    return [entry.step for entry in history]


def check_training_set(context: Context, launched: Sequence[TrainingSpec]) -> None:
    """Each round trains on the pairs of all rounds so far."""
    for number, spec in enumerate(launched[-1:], start=len(launched)):
        rows = context.spark.read.parquet(spec.shards)
        assert rows.count() == 56
        known = context.store.read(TRAINING_PAIRS).select(*PAIR).distinct().count()
        assert known == 56 * 4 if number == 1 else known > 56 * 4
        assert rows.select(F.explode("candidates")).count() == known
        ranks = rows.select("candidates.rank").collect()
        assert all(row["rank"] == sorted(row["rank"]) for row in ranks)


def check_signal(context: Context) -> None:
    """A mined pair is positive where the judge's likeliest label word is the query's, and says its share."""
    labels = context.task.labels
    pool = {row["candidate_id"]: row["label"] for row in context.store.read(CANDIDATES).collect()}
    judged = {
        (row["query_id"], row["candidate_id"]): np.array(row["log_likelihoods"])
        for row in context.store.read(SCORES).collect()
    }
    mined = context.store.read(TRAINING_PAIRS).collect()
    assert len(mined) == 2 * 56 * 4
    for row in mined:
        log_likelihood_L = judged[row["query_id"], row["candidate_id"]]
        gold = labels.index(pool[row["query_id"]])
        assert (row["role"] == POSITIVE) == (log_likelihood_L.argmax() == gold)
        share = log_likelihood_L[gold] - np.logaddexp.reduce(log_likelihood_L)
        assert row["gold_log_prob"] == pytest.approx(share, abs=1e-5)
        assert row["same_label"] == (pool[row["query_id"]] == pool[row["candidate_id"]])


def check_kept(folder: Path) -> None:
    """Beside a retriever lies nothing large that no run reads again."""
    assert (folder / "model.safetensors").is_file()
    beside = [path for path in folder.parent.iterdir() if path != folder]
    assert not [path for path in beside if path.is_dir()]


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[[str], Path]:
    """``write_spec(name)``: spec of a short training of the mini encoder, by two ranks unless ``plain``."""

    def write(name: str) -> Path:
        folder = tmp_path / name
        texts = [f"{word} {other}" for word in ("goal", "nurse", "train", "vote") for other in "abcdefgh"]
        rows = [
            {
                "query_id": text,
                "query_text": text,
                "split": TRAIN,
                "candidates": [
                    {
                        "rank": rank,
                        "candidate_id": f"{role} {text}",
                        "candidate_text": other,
                        "role": role,
                        "same_label": role == POSITIVE,
                        "gold_log_prob": -1.0,
                    }
                    for rank, (role, other) in enumerate(
                        ((POSITIVE, texts[number ^ 1]), ("negative", texts[number - 8]))
                    )
                ],
            }
            for number, text in enumerate(texts)
        ]
        (folder / "shards").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "shards" / "part-0.parquet")
        recipe = InfoNceRecipe(
            loss="infonce",
            temperature=0.1,
            learning_rate=1e-4,
            batch_size=8,
            steps=4,
            evaluate_every=2,
            max_tokens=32,
        )
        spec = TrainingSpec(
            encoder=EncoderConfig(model="mini", device="cpu"),
            recipe=recipe,
            shards=str(folder / "shards"),
            output=str(folder / "retriever"),
            ranks=1 if name == "plain" else 2,
        )
        path = folder / "spec.json"
        path.write_text(spec.model_dump_json(), encoding="utf-8")
        return path

    return write


def test_ranks_on_executors(
    open_sample: Callable[..., Context],
    write_spec: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    context = open_sample("train.ranks=2", "train.on_driver=false")
    specs = {name: write_spec(name) for name in ("plain", "executors")}
    output = specs["executors"].with_name("retriever")
    train._launch(context, specs["executors"], "executors", work_folder(output))
    monkeypatch.setattr(loop, "prepare_engine", lambda: "none")
    monkeypatch.setattr(loop, "deepspeed_dict", lambda engine: None)
    loop.train_retriever(str(specs["plain"]))
    weights, expected = (
        load_file(spec.with_name("retriever") / "model.safetensors")
        for spec in (specs["executors"], specs["plain"])
    )
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        # Training moves them by 20 times that.
        torch.testing.assert_close(weight, expected[name], atol=1e-5, rtol=0)

    shutil.rmtree(output)
    (output.with_name("shards") / "part-0.parquet").unlink()
    with pytest.raises(TrainingError, match=r"there is no Parquet file .*; the messages of the ranks are in"):
        train._launch(context, specs["executors"], "executors", work_folder(output))
    assert "Traceback" not in capfd.readouterr().err, "the ranks do not write on the user's screen"
