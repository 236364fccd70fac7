"""Every job in order, then all stages again: no model work is done, and no table changes.

The jobs run in this process; test_submit.py starts some of them as a scheduler does.
"""

import io
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import yaml
from pyspark.sql import functions as F
from rich.console import Console

from xampler.errors import DataError, ModelError, TrackingError
from xampler.models.labeller import read_spec
from xampler.pipeline.context import Context
from xampler.pipeline.estimate import estimate_scoring, say_estimate
from xampler.pipeline.evaluate import evaluate_part
from xampler.pipeline.finish import finish_run
from xampler.pipeline.label import LabelConfig, label_corpus
from xampler.pipeline.model_compare import compare_models
from xampler.pipeline.model_show import show_model
from xampler.pipeline.plan import needed_for, run_stages
from xampler.pipeline.retrieve import trained_encoder
from xampler.pipeline.stage import find_done
from xampler.pipeline.sweep_reuse import adopt_finished
from xampler.tables.schema import (
    CANDIDATES,
    DEMONSTRATIONS,
    LABELS,
    LABELS_REJECTED,
    METRICS_BY_GROUP,
    METRICS_BY_LANGUAGE,
    PAIRS,
    PREDICTIONS,
    QUERIES,
    SCORES,
    TABLES,
    TRAINING_PAIRS,
)
from xampler.tracking.lineage import Lineage
from xampler.tracking.registry import CHALLENGER, CHAMPION, download_labeller, find_reference, version_of

OpenSample = Callable[..., Context]
ROOT = Path(__file__).resolve().parents[2]
QUERIES_PER_LANG = 14
JOBS = (
    "ingest_texts",
    "propose_pairs",
    "score_pairs",
    "mine_pairs",
    "train_retriever",
    "retrieve_demonstrations",
    "predict_labels",
    "evaluate_predictions",
    "promote_retriever",
)
METHODS = {"majority", "zero-shot", "random", "bm25", "untrained", "minilm", "xampler"}


def versions(context: Context) -> dict[str, int | None]:
    return {table.name: context.store.version(table) for table in TABLES}


def test_every_job_then_all_again(open_sample: OpenSample, environment: Path, tmp_path: Path) -> None:
    for job in JOBS:
        runpy.run_path(str(ROOT / "jobs" / f"{job}.py"))["main"](open_sample())
    context = open_sample()
    check_tables(context)
    check_runs(context)

    before = versions(context)
    summary_file, report_file = tmp_path / "summary.json", tmp_path / "report.html"
    again = run_stages(context)
    finish_run(context, again, summary=summary_file, report=report_file)
    assert again.prompts_scored == 0
    assert all(seconds == 0 for seconds in again.seconds.values())
    assert versions(context) == before
    check_summary(json.loads(summary_file.read_text(encoding="utf-8")))
    assert "<html" in report_file.read_text(encoding="utf-8")

    check_estimate(open_sample)
    check_another_name_takes_over_what_is_finished(open_sample)
    check_one_more_method_costs_only_its_own_prompts(open_sample, tmp_path)
    check_labelling(context, tmp_path)
    check_artifact(context)
    check_lookup_from_a_plain_process(environment, tmp_path)
    check_promotion(open_sample)
    check_show(context, environment)
    check_compare(context)


def test_every_job_is_run_here() -> None:
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == {*JOBS, "label_corpus"}


def check_tables(context: Context) -> None:
    store, pool = context.store, 56
    assert store.read(CANDIDATES).count() == pool
    assert (
        store.read(QUERIES).where("split = 'test'").groupBy("lang").count().toPandas()["count"].tolist()
        == [QUERIES_PER_LANG] * 3
    )
    assert store.read(PAIRS).count() == pool * 4
    assert store.read(SCORES).count() == store.read(TRAINING_PAIRS).count() == pool * 4
    assert set(store.read(DEMONSTRATIONS).toPandas()["method"]) == METHODS - {"majority"}
    shown = store.read(DEMONSTRATIONS).where("method = 'xampler'")
    assert shown.where(F.size("demonstration_ids") != 3).count() == 0
    assert shown.where("similarities[0] > similarities[2] + 0.000001").count() == 0, (
        "the most similar stands last"
    )
    assert (
        store.read(PREDICTIONS).select("query_id", "demonstrations_id").distinct().count()
        == store.read(PREDICTIONS).count()
    )
    metrics = store.read(METRICS_BY_LANGUAGE).where("split = 'test'").toPandas()
    assert set(metrics["method"]) == METHODS
    assert (metrics["queries"] == QUERIES_PER_LANG).all()
    assert (metrics["accuracy_low"] <= metrics["accuracy"]).all()
    assert (metrics["accuracy_own_labels"] >= metrics["accuracy"]).all()
    families = store.read(METRICS_BY_GROUP).where("split = 'test' AND group_kind = 'family'").toPandas()
    assert set(families["group_name"]) == {"Atlantic-Congo", "Indo-European"}


def check_summary(summary: dict[str, object]) -> None:
    assert set(summary) == {"methods", "languages", "prompts_scored", "seconds"}
    assert summary["languages"] == 3
    assert summary["prompts_scored"] == 0
    methods = summary["methods"]
    assert isinstance(methods, dict)
    assert set(methods) == METHODS
    for figures in methods.values():
        assert set(figures["by_language"]) == {"eng_Latn", "swh_Latn", "hin_Deva"}
        mean = sum(figures["by_language"].values()) / 3
        assert figures["accuracy"] == pytest.approx(mean)


def check_runs(context: Context) -> None:
    client = context.engines.tracker.client
    [found] = [e for e in client.search_experiments() if e.name == "sample"]
    runs = {run.info.run_name: run for run in client.search_runs([found.experiment_id])}
    assert {
        "ingest",
        "propose",
        "score",
        "mine",
        "train/infonce",
        "retrieve/xampler",
        "predict",
        "evaluate",
        "promote",
    } <= set(runs)
    score = runs["score"]
    assert score.data.metrics["score/rows"] == 56 * 4
    assert score.data.metrics["score/rows_per_s"] > 0
    assert 0 < score.data.metrics["score/prefix_hit_rate"] < 1
    assert score.data.metrics["score/tokens"] > 56 * 4 * 10
    assert score.data.metrics["score/texts_shortened"] >= 0
    two_tasks = 2 * score.data.metrics["score/seconds"]
    assert 0 < score.data.metrics["score/model_seconds"] < two_tasks
    assert score.data.params["version_in.pairs"] == str(context.store.version(PAIRS))
    names = {item.path for item in client.list_artifacts(score.info.run_id)}
    assert {"config.yaml", "task.yaml"} <= names
    assert any(name.startswith("train/loss") for name in runs["train/infonce"].data.metrics)


def check_estimate(open_sample: OpenSample) -> None:
    context = open_sample()
    before = context.store.version(SCORES)
    assert estimate_scoring(context).prompts == 0
    other = estimate_scoring(open_sample("prompt.max_text_tokens=24"), calibration_seconds=0.2)
    assert other.prompts == 56 * 4
    assert 0 < other.calibrated_on <= other.prompts
    assert other.tokens > other.tokens_shared > 0
    assert other.seconds > 0
    assert "prompts to score: 224" in say_estimate(other)
    assert context.store.version(SCORES) == before


def check_one_more_method_costs_only_its_own_prompts(open_sample: OpenSample, tmp_path: Path) -> None:
    more = open_sample("methods.more={kind: random, seeds: [7]}")
    done = run_stages(more, ["retrieve", "predict", "evaluate"])
    finish_run(more, done, summary=tmp_path / "more.json", report=None)
    summary = json.loads((tmp_path / "more.json").read_text(encoding="utf-8"))
    assert 0 < summary["prompts_scored"] == done.prompts_scored <= 3 * QUERIES_PER_LANG + 56
    assert set(summary["methods"]) == METHODS | {"more"}


def check_another_name_takes_over_what_is_finished(open_sample: OpenSample) -> None:
    context = open_sample("name=other")
    parts = needed_for(evaluate_part(context))
    adopt_finished(context, parts)
    assert all(find_done(context, part) is not None for part in parts)
    for table in (QUERIES, CANDIDATES, PAIRS, TRAINING_PAIRS, DEMONSTRATIONS, METRICS_BY_GROUP):
        own, first = (
            context.store.read(table, experiment=name).drop("experiment") for name in ("other", "sample")
        )
        assert own.count() == first.count() > 0
        assert own.exceptAll(first).isEmpty()
    assert trained_encoder(context, "infonce") == trained_encoder(open_sample(), "infonce")


def check_labelling(context: Context, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    rows = [
        {"id": "a", "lang": "swh_Latn", "text": "Timu ilishinda mechi."},
        {"id": "b", "lang": "hin_Deva", "text": "अस्पताल में नया टीका पहुँचा।"},
        {"id": "b", "lang": "hin_Deva", "text": "दूसरा"},
        {"id": "c", "lang": "eng_Latn", "text": "   "},
    ]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = {
        "corpus": "c",
        "model_name": "xampler-sample",
        "source": {
            "format": "table",
            "path": str(corpus),
            "kind": "jsonl",
            "columns": {"text": "text", "lang": "lang", "id": "id"},
        },
    }
    job = runpy.run_path(str(ROOT / "jobs" / "label_corpus.py"))["main"]
    job(context.engines, LabelConfig.model_validate(values))
    labels = {row["row_id"]: row for row in context.store.read(LABELS).collect()}
    assert sorted(labels) == ["a", "b"]
    assert sum(labels["a"]["probabilities"].values()) == pytest.approx(1)
    assert len(labels["a"]["demonstration_ids"]) == 3
    assert {row["reason"] for row in context.store.read(LABELS_REJECTED).collect()} == {
        "the id occurs more than once",
        "the text is empty",
    }
    version = context.store.version(LABELS)
    outcome = label_corpus(context.engines, LabelConfig.model_validate(values))
    assert (outcome.labelled, outcome.total, outcome.rejected) == (0, 2, 2)
    assert context.store.version(LABELS) == version


def check_promotion(open_sample: OpenSample) -> None:
    """A second retriever is compared with the champion, and the decision is kept with its figures."""
    second = open_sample("train.recipes.infonce.steps=3", "promote.min_gain=0.9")
    run_stages(second)
    tracker = second.engines.tracker
    champion = version_of(tracker, "xampler-sample", CHAMPION)
    challenger = version_of(tracker, "xampler-sample", CHALLENGER)
    assert champion is not None
    assert challenger is not None
    assert (champion.version, challenger.version) == ("1", "2")
    assert champion.tags["xampler.promotion.reason"] == "there was no champion"
    assert challenger.tags["xampler.promotion.decision"] == "kept"
    assert challenger.tags["xampler.promotion.compared_with"] == "1"
    low, gain, high = (
        float(challenger.tags[f"xampler.promotion.{name}"]) for name in ("gain_low", "gain", "gain_high")
    )
    dev = [
        Lineage.from_tags(version.tags, "").metrics["dev"].accuracy[0] for version in (champion, challenger)
    ]
    assert gain == pytest.approx(dev[1] - dev[0], abs=1e-4), "of the accuracies that each version names"
    assert -1 <= low <= gain <= high < 0.9, "what was needed"
    assert challenger.tags["xampler.promotion.reason"].startswith(f"paired gain over version 1 {gain:+.4f} [")


def check_artifact(context: Context) -> None:
    """Everything that a reader of the version needs, and nothing that loading would run."""
    folder, version = download_labeller(context.engines.tracker, "xampler-sample", CHAMPION)
    model = mlflow.models.Model.load(str(folder.parents[1]))
    assert model.signature is not None
    assert model.saved_input_example_info is not None
    assert model.metadata is not None
    assert model.metadata["scorer_id"] == read_spec(folder).scorer_id
    flavor = model.flavors["python_function"]
    assert (flavor["loader_module"], flavor["code"]) == ("xampler.models.labeller", None)
    assert "python_model" not in flavor, "MLflow pickles these"
    files = [path for path in folder.parents[1].rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {"", ".json", ".yaml", ".txt", ".parquet", ".safetensors"}
    assert not [path for path in files if path.read_bytes()[:1] == b"\x80"], "how a pickle begins"
    requirements = (folder.parents[1] / "requirements.txt").read_text(encoding="utf-8").split()
    assert requirements
    assert all("==" in line for line in requirements)

    lineage = Lineage.from_tags(version.tags, "version")
    assert (lineage.experiment, lineage.method, lineage.recipe) == ("sample", "xampler", "infonce")
    assert (lineage.pool_langs, lineage.candidates) == (("eng_Latn",), 56)
    assert lineage.encoder_licence == lineage.language_model_licence == "cc-by-sa-4.0"
    assert lineage.recipe_config["steps"] == 6
    assert lineage.metrics["test"].queries == 2 * QUERIES_PER_LANG
    assert lineage.metrics["dev"].languages == 1
    assert set(lineage.runs) >= {"ingest", "score", "mine", "train/infonce", "retrieve/xampler", "evaluate"}
    assert "retrieve/bm25" not in lineage.runs
    assert set(lineage.table_versions["train/infonce"]) == {"training_pairs", "candidates", "queries"}


def check_show(context: Context, environment: Path) -> None:
    screen = io.StringIO()
    Console(width=120, file=screen).print(show_model(environment, "xampler-sample@champion"))
    shown = screen.getvalue()
    for part in (
        "version 1",
        "champion",
        "infonce: ",
        "cc-by-sa-4.0",
        "56 candidates in eng_Latn",
        "torch==",
    ):
        assert part in shown
    assert len(shown.splitlines()) < 50, "more than one screen"
    for wrong, known in (
        ("xampler-sample@best", r"xampler-sample \(@challenger, @champion, 1, 2\)"),
        ("nothing/1", "xampler-sample"),
        ("xampler-sample", "NAME@ALIAS or NAME/VERSION"),
    ):
        with pytest.raises(TrackingError, match=known):
            show_model(environment, wrong)


def check_compare(context: Context) -> None:
    """The second version has replaced the first one's rows; those of its time are compared with."""
    found = {
        (row.kind, row.name): row
        for row in compare_models(context.engines, "xampler-sample/2", "xampler-sample/1", "test")
    }
    assert found["all", "all"].texts == 3 * QUERIES_PER_LANG
    assert found["non_pool", "non_pool"].languages == 2
    assert {name for kind, name in found if kind == "script"} == {"Latn", "Deva"}
    assert {kind for kind, _ in found} == {"all", "non_pool", "coverage", "family", "script"}
    recorded = {
        number: Lineage.from_tags(
            find_reference(context.engines.tracker, f"xampler-sample/{number}").tags, ""
        )
        for number in (1, 2)
    }
    expected = recorded[2].metrics["test"].accuracy[0] - recorded[1].metrics["test"].accuracy[0]
    assert found["non_pool", "non_pool"].difference.difference.value == pytest.approx(expected)
    same = compare_models(context.engines, "xampler-sample/1", "xampler-sample@champion", "dev")
    assert all(row.difference.difference.value == 0 for row in same)
    with pytest.raises(DataError, match="no train text in common"):
        compare_models(context.engines, "xampler-sample/1", "xampler-sample/2", "train")


def check_lookup_from_a_plain_process(environment: Path, tmp_path: Path) -> None:
    uri = yaml.safe_load(environment.read_text(encoding="utf-8"))["tracking"]["uri"]
    code = (
        f"import mlflow, json; mlflow.set_tracking_uri({uri!r}); "
        "m = mlflow.pyfunc.load_model('models:/xampler-sample@champion'); "
        "assert len(m.predict(m.input_example)) == 2; "
        "out = m.predict(['Timu ilishinda mechi ya mwisho.', 'نظام صحي جديد']); "
        "print(json.dumps([out['label'].tolist(), out['probability'].tolist()]))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    labels, probabilities = json.loads(printed.stdout.splitlines()[-1])
    assert len(labels) == 2
    assert all(0 < probability <= 1 for probability in probabilities)


def test_a_folder_without_a_labeller_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no labeller"):
        read_spec(tmp_path)
