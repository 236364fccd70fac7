"""Bad input: one message that names the fault and the remedy, exit status 2, nothing half-written."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from xampler.errors import DataError, LabelWordError, ModelError, XamplerError
from xampler.pipeline.context import Context
from xampler.pipeline.experiment import conf_folder
from xampler.pipeline.plan import run_stages
from xampler.tables.schema import PREDICTIONS, QUERIES, SCORES

XAMPLER = Path(sys.executable).with_name("xampler")
MINI_LANGUAGE_MODEL = conf_folder().parent / "data" / "mini" / "language_model"
LONGEST_MESSAGE = 1200
NO_TOKEN = "\u200b"  # a zero-width space
OpenSample = Callable[..., Context]


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
def test_config_faults(
    tmp_path: Path, environment: Path, experiment: Path, override: str, parts: tuple[str, ...]
) -> None:
    result = run_command(
        "run", "--env", str(environment), "--config", str(experiment), "--set", override, cwd=tmp_path
    )
    check_message(result, *parts)


def test_missing_config_file(tmp_path: Path) -> None:
    check_message(
        run_command("run", "--config", "nowhere.yaml", cwd=tmp_path), "nowhere.yaml", "cannot be read"
    )


def test_debug_shows_the_trace(tmp_path: Path) -> None:
    result = run_command("run", "--config", "nowhere.yaml", "--debug", cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" in result.stderr


def test_no_java(tmp_path: Path, environment: Path, experiment: Path) -> None:
    environ = {"PATH": str(tmp_path), "JAVA_HOME": ""}
    result = run_command(
        "run", "--env", str(environment), "--config", str(experiment), cwd=tmp_path, environ=environ
    )
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
    result = run_command(
        "run", "--env", str(environment), "--config", str(experiment), "--set", override, cwd=tmp_path
    )
    check_message(result, "nothing_here")
    assert not list((tmp_path / "tables").glob("*/_delta_log/*.json"))


Spoil = Callable[[Path], None]


def _write(name: str, content: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return spoil


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
    open_sample: OpenSample, experiment: Path, spoil: Spoil, parts: tuple[str, ...]
) -> None:
    context = open_sample()
    root = Path(yaml.safe_load(experiment.read_text(encoding="utf-8"))["data"]["source"]["root"])
    spoil(root / "data" / "annotated" / "swh_Latn")
    with pytest.raises(DataError) as caught:
        run_stages(context, ["ingest"])
    for part in parts:
        assert part in str(caught.value)
    assert context.store.read(QUERIES).count() == 0


def expect_before_any_work(
    open_sample: OpenSample, error: type[XamplerError], match: str, *overrides: str
) -> None:
    context = open_sample(*overrides)
    with pytest.raises(error, match=match):
        run_stages(context)
    assert not any(context.store.exists(table) for table in (QUERIES, SCORES, PREDICTIONS))


@pytest.mark.parametrize("role", ["language_model", "methods.untrained.encoder", "train.encoder"])
def test_unreachable_model(open_sample: OpenSample, role: str) -> None:
    expect_before_any_work(open_sample, ModelError, "no-such/model", f"{role}.model=no-such/model")


def with_words_for_travel(tmp_path: Path, words: str) -> str:
    task = yaml.safe_load((conf_folder() / "tasks" / "sib200.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(task | {"verbalizer": {"travel": words}}), encoding="utf-8")
    return f"task={path}"


def test_label_words_that_tokenise_to_nothing(open_sample: OpenSample, tmp_path: Path) -> None:
    """The mini language model with a tokenizer that drops zero-width spaces, as many do."""
    folder = tmp_path / "model"
    shutil.copytree(MINI_LANGUAGE_MODEL, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    drop = {"type": "Replace", "pattern": {"String": f" {NO_TOKEN}"}, "content": ""}
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [drop, tokenizer["normalizer"]]}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    overrides = with_words_for_travel(tmp_path, NO_TOKEN), f"language_model.model={folder}"
    expect_before_any_work(open_sample, LabelWordError, "travel|200b|no token", *overrides)


def test_label_words_that_begin_with_one_another_are_scored(open_sample: OpenSample, tmp_path: Path) -> None:
    context = open_sample(with_words_for_travel(tmp_path, "sports and games"))
    run_stages(context, ["ingest", "propose", "score"])
    position = context.task.labels.index("travel"), context.task.labels.index("sports")
    for row in context.store.read(SCORES).collect():
        longer, shorter = (row["log_likelihoods"][i] for i in position)
        assert longer < shorter, "the longer words include the shorter ones"
