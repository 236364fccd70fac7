"""Bad input: one message that names the fault and the remedy, exit status 2, nothing half-written."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession
from test_chain import open_sample

from xampler.errors import DataError, LabelWordError, ModelError, XamplerError
from xampler.pipeline.plan import run_stages
from xampler.tables.schema import PREDICTIONS, QUERIES, SCORES

XAMPLER = Path(sys.executable).with_name("xampler")
LONGEST_MESSAGE = 1200


def run_command(
    *arguments: str, cwd: Path, environ: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(XAMPLER), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | (environ or {}),
        timeout=300,
    )


def check_message(result: "subprocess.CompletedProcess[str]", *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr) < LONGEST_MESSAGE, "more than one screen"
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("methods.mine={kind: magic}", ("methods.mine", "magic", "bm25")),
        ("promot.model_name=x", ("promot", "unknown key")),
        ("demonstrations='ten'", ("demonstrations", "ten")),
        ("train.recipes.infonce.learning_rate=3e-4", ("learning_rate", "3e-4")),
        ("methods.xampler.recipe=secret", ("secret", "infonce")),
        ("task=poetry", ("poetry", "sib200")),
    ],
)
def test_config_faults(tmp_path: Path, environment: Path, experiment: Path, override: str, parts: tuple[str, ...]) -> None:
    result = run_command("run", "--env", str(environment), "--config", str(experiment), "--set", override, cwd=tmp_path)
    check_message(result, *parts)


def test_missing_config_file(tmp_path: Path) -> None:
    check_message(run_command("run", "--config", "nowhere.yaml", cwd=tmp_path), "nowhere.yaml", "cannot be read")


def test_debug_shows_the_trace(tmp_path: Path) -> None:
    result = run_command("run", "--config", "nowhere.yaml", "--debug", cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" in result.stderr


def test_no_java(tmp_path: Path, environment: Path, experiment: Path) -> None:
    environ = {"PATH": str(tmp_path), "JAVA_HOME": ""}
    result = run_command("run", "--env", str(environment), "--config", str(experiment), cwd=tmp_path, environ=environ)
    check_message(result, "Java", "17", "install")
    assert not any((tmp_path / "tables").iterdir())


def test_unreachable_mlflow_server(tmp_path: Path, environment: Path, experiment: Path) -> None:
    env = yaml.safe_load(environment.read_text(encoding="utf-8"))
    env["tracking"] = {"uri": "http://127.0.0.1:9", "artifacts": None}
    environment.write_text(yaml.safe_dump(env), encoding="utf-8")
    result = run_command("run", "--env", str(environment), "--config", str(experiment), cwd=tmp_path)
    check_message(result, "127.0.0.1:9", "tracking.uri")


def test_unwritable_store(tmp_path: Path, environment: Path, experiment: Path) -> None:
    (tmp_path / "in_the_way").write_text("")
    env = yaml.safe_load(environment.read_text(encoding="utf-8"))
    env["tables"] = {"path": str(tmp_path / "in_the_way" / "tables")}
    environment.write_text(yaml.safe_dump(env), encoding="utf-8")
    result = run_command("run", "--env", str(environment), "--config", str(experiment), cwd=tmp_path)
    check_message(result, "in_the_way", "tables.path")


def test_missing_data_folder_from_the_command(tmp_path: Path, environment: Path, experiment: Path) -> None:
    override = f"data.source.root={tmp_path}/nothing_here"
    result = run_command("run", "--env", str(environment), "--config", str(experiment), "--set", override, cwd=tmp_path)
    check_message(result, "nothing_here")
    assert not list((tmp_path / "tables").glob("*/_delta_log/*.json"))


Spoil = Callable[[Path], None]


def _write(name: str, content: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content) and None


HEADER = b"index_id\tcategory\ttext\n"


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (_write("test.tsv", b"index_id\ttext\n1\tHabari\n"), ("swh_Latn/test.tsv", "category")),
        (_write("test.tsv", HEADER + b"1\tcooking\tHabari\n"), ("swh_Latn/test.tsv", "cooking", "travel")),
        (_write("test.tsv", HEADER + b'1\ttravel\t"Habari" njema\n'), ("swh_Latn/test.tsv",)),
        (_write("test.tsv", HEADER + b"1\ttravel\tHabari \xff\n"), ("swh_Latn/test.tsv", "UTF-8")),
        (_write("test.tsv", b""), ("swh_Latn/test.tsv", "empty")),
        (lambda folder: (folder / "test.tsv").unlink(), ("swh_Latn", "test")),
    ],
    ids=["missing column", "wrong label", "broken quoting", "invalid UTF-8", "empty file", "no test split"],
)
def test_faults_of_data_files(
    spark: SparkSession, environment: Path, experiment: Path, spoil: Spoil, parts: tuple[str, ...]
) -> None:
    context = open_sample(spark, environment, experiment)
    root = Path(yaml.safe_load(experiment.read_text(encoding="utf-8"))["data"]["source"]["root"])
    spoil(root / "data" / "annotated" / "swh_Latn")
    with pytest.raises(DataError) as caught:
        run_stages(context, ["ingest"])
    for part in parts:
        assert part in str(caught.value)
    assert context.store.read(QUERIES).count() == 0


def expect_before_any_work(
    spark: SparkSession, environment: Path, experiment: Path, error: type[XamplerError], match: str, *overrides: str
) -> None:
    context = open_sample(spark, environment, experiment, *overrides)
    with pytest.raises(error, match=match):
        run_stages(context)
    assert not any(context.store.exists(table) for table in (QUERIES, SCORES, PREDICTIONS))


def test_unreachable_model(spark: SparkSession, environment: Path, experiment: Path) -> None:
    expect_before_any_work(
        spark, environment, experiment, ModelError, "no-such/model", "language_model.model=no-such/model"
    )


def test_unreachable_encoder(spark: SparkSession, environment: Path, experiment: Path) -> None:
    expect_before_any_work(
        spark, environment, experiment, ModelError, "no-such/encoder", "methods.untrained.encoder.model=no-such/encoder"
    )


def with_task(experiment: Path, tmp_path: Path, **values: object) -> str:
    task = yaml.safe_load((Path(__file__).parents[2] / "conf" / "tasks" / "sib200.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(task | values), encoding="utf-8")
    return f"task={path}"


def test_label_words_that_tokenise_to_nothing(
    spark: SparkSession, environment: Path, experiment: Path, tmp_path: Path
) -> None:
    task = with_task(experiment, tmp_path, verbalizer={"travel": "\u200b"})
    expect_before_any_work(spark, environment, experiment, LabelWordError, "200b|travel", task)


def test_label_words_that_begin_with_one_another_are_scored(
    spark: SparkSession, environment: Path, experiment: Path, tmp_path: Path
) -> None:
    task = with_task(experiment, tmp_path, verbalizer={"travel": "sports and games"})
    context = open_sample(spark, environment, experiment, task)
    run_stages(context, ["ingest", "propose", "score"])
    position = context.task.labels.index("travel"), context.task.labels.index("sports")
    for row in context.store.read(SCORES).collect():
        longer, shorter = (row["log_likelihoods"][i] for i in position)
        assert longer < shorter, "the longer words include the shorter ones"
