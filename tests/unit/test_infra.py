"""The scheduled jobs name programs and configs that exist."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from xampler.config import load_config
from xampler.pipeline.context import Environment
from xampler.pipeline.experiment import ExperimentConfig
from xampler.pipeline.label import LabelConfig

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "infra" / "kubernetes"
MOUNTED = "/etc/xampler/"


def load_manifest(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((KUBERNETES / name).read_text(encoding="utf-8"))
    return manifest


def pod_of(name: str) -> dict[str, Any]:
    pod: dict[str, Any] = load_manifest(name)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return pod


def find_config(path: str) -> Path:
    """Where the file lies before it is copied into the image or mounted."""
    if path.startswith(MOUNTED):
        return KUBERNETES / "conf" / path.removeprefix(MOUNTED)
    return ROOT / path


@pytest.mark.parametrize(
    ("name", "program", "kind"),
    [
        ("label-corpus.yaml", ["spark-submit", "jobs/label_corpus.py"], LabelConfig),
        ("train-retriever.yaml", ["xampler", "run"], ExperimentConfig),
    ],
)
def test_the_command_and_its_configs(
    name: str, program: list[str], kind: type[LabelConfig] | type[ExperimentConfig]
) -> None:
    command = pod_of(name)["containers"][0]["command"]
    options = dict(zip(command[2::2], command[3::2], strict=True))

    assert command[:2] == program
    assert all((ROOT / word).is_file() for word in program if word.endswith(".py"))
    load_config(Environment, find_config(options["--env"]))
    load_config(kind, find_config(options["--config"]), [options["--set"]] if "--set" in options else [])


@pytest.mark.parametrize("name", ["label-corpus.yaml", "train-retriever.yaml"])
def test_what_is_mounted_is_defined(name: str) -> None:
    listed = load_manifest("kustomization.yaml")
    pod = pod_of(name)
    [config_maps] = listed["configMapGenerator"]

    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    assert {"name": "conf", "configMap": {"name": config_maps["name"]}} in pod["volumes"]
    assert all((KUBERNETES / file).is_file() for file in [*listed["resources"], *config_maps["files"]])
    assert name in listed["resources"]
