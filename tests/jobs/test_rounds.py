"""An iterative recipe: later rounds cost the new pairs only, and what a broken run finished is kept."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from xampler.core.pairing import PROPOSED
from xampler.errors import TrainingError
from xampler.pipeline import train
from xampler.pipeline.context import Context
from xampler.pipeline.plan import parts_of, run_stages
from xampler.pipeline.stage import find_done, run_part
from xampler.tables.schema import PAIRS, SCORES, TRAINING_PAIRS
from xampler.training import loop
from xampler.training.recipe import TrainingSpec

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
        launched.append(spec)
        loop.train_retriever(str(spec_file))

    monkeypatch.setattr(train, "_launch", in_this_process)
    monkeypatch.setattr(loop, "prepare_engine", lambda: "none")
    monkeypatch.setattr(loop, "deepspeed_dict", lambda engine: None)
    context = open_sample(RECIPE)
    run_stages(context, ["ingest", "propose", "score", "mine"])
    scored = context.store.read(SCORES).count()

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

    broken = False
    train_again(open_sample(RECIPE))
    assert context.store.read(SCORES).count() == scored + new, "what the broken run scored is kept"
    assert len(launched) == 2, "its first round as well"
    mined = context.store.read(TRAINING_PAIRS)
    assert mined.count() == 2 * 56 * 4
    assert mined.where("same_label <> (role = 'positive')").count() < mined.count() / 2
    check_training_set(context, launched)
    found = find_done(open_sample(RECIPE), part)
    assert found is not None
    assert Path(found.result["model_dir"]).is_dir()


def train_again(context: Context) -> None:
    for part in parts_of(context, "train"):
        if part.name == "again":
            run_part(context, part)


def check_training_set(context: Context, launched: list[TrainingSpec]) -> None:
    """The second round starts from the first one's weights, with the pairs of both."""
    one, two = launched
    assert two.encoder.model == one.output
    rows = [context.spark.read.parquet(spec.shards) for spec in launched]
    assert [row.count() for row in rows] == [56, 56]
    counts = [row.select(F.explode("candidates")).count() for row in rows]
    distinct = context.store.read(TRAINING_PAIRS).select(*PAIR).distinct().count()
    assert counts == [56 * 4, distinct]
    ranks = rows[1].select("candidates.rank").collect()
    assert all(row["rank"] == sorted(row["rank"]) for row in ranks)
