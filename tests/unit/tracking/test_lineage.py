"""What a version says of itself goes through its tags and comes back."""

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

import xampler
from xampler.errors import TrackingError
from xampler.models.build import LanguageModelConfig
from xampler.pipeline.lineage import PACKAGES, packages_of, resolved_revision
from xampler.tracking import lineage as module
from xampler.tracking.lineage import PREFIX, Lineage, SplitMetrics, code_state, pin_requirements


def made() -> Lineage:
    return Lineage(
        experiment="sample",
        method="xampler",
        task="sib200",
        labels=("travel", "santé, corps"),
        recipe="infonce",
        recipe_config={"loss": "infonce", "steps": 6, "learning_rate": 3e-4},
        encoder="owner/encoder",
        encoder_revision="abc",
        encoder_id="0" * 16,
        encoder_licence="apache-2.0",
        language_model="mini",
        language_model_revision=None,
        adapter=None,
        adapter_revision=None,
        language_model_licence="unknown",
        scorer_id="1" * 16,
        prompt_id="2" * 16,
        pool_langs=("eng_Latn", "swh_Latn"),
        candidates=56,
        metrics={
            "dev": SplitMetrics(languages=2, queries=28, accuracy=(0.5, 0.4, 0.6), macro_f1=(0.5, 0.4, 0.6)),
            "test": SplitMetrics(
                languages=2,
                queries=28,
                accuracy=(0.5, 0.4, 0.6),
                macro_f1=(0.5, 0.4, 0.6),
                base_method="untrained",
                gain=(0.1, -0.1, 0.2),
                share_better=0.5,
            ),
        },
        table_versions={"mine": {"scores": 3}, "ingest": {}},
        runs={"mine": "f" * 32},
        code="xampler 1.0",
        requirements=("torch==2.9.0",),
    )


def test_tags_and_back() -> None:
    tags = made().to_tags()
    assert tags[f"{PREFIX}recipe"] == "infonce"
    assert tags[f"{PREFIX}pool_langs"] == '["eng_Latn", "swh_Latn"]'
    assert all(isinstance(tag, str) for tag in tags.values())
    assert Lineage.from_tags(tags | {"xampler.promotion.decision": "kept"}, "m version 1") == made()


def test_a_version_of_something_else_is_named() -> None:
    with pytest.raises(TrackingError, match="m version 1 carries no lineage"):
        Lineage.from_tags({"owner": "me"}, "m version 1")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    told = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True
    )
    return told.stdout.strip()


def test_the_commit_of_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLONE", tmp_path)
    assert code_state() == f"xampler {xampler.__version__}", "an installed package"
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    git(tmp_path, "tag", "v1")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert code_state() == commit
    (tmp_path / "code.py").write_text("2")
    assert code_state() == f"{commit}-dirty"


def test_an_installed_package_in_somebody_elses_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "--quiet")
    monkeypatch.setattr(module, "CLONE", tmp_path / "venv" / "site-packages")
    assert code_state() == f"xampler {xampler.__version__}"


def test_requirements_are_pinned_to_what_an_index_has() -> None:
    [numpy, torch] = pin_requirements(["numpy", "torch"])
    assert numpy == f"numpy=={version('numpy')}"
    assert "+" not in torch


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(TrackingError, match="pip install no-such-package"):
        pin_requirements(["numpy", "no-such-package"])


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ({}, ()),
        ({"adapter": "owner/adapter"}, ("peft",)),
        ({"device_map": "auto"}, ("accelerate",)),
        ({"quantization": "4bit"}, ("accelerate", "bitsandbytes")),
    ],
)
def test_requirements_follow_how_the_language_model_is_loaded(
    config: dict[str, str], more: tuple[str, ...]
) -> None:
    model = LanguageModelConfig.model_validate({"model": "owner/model"} | config)
    assert packages_of(model) == (*PACKAGES, *more)


def test_a_revision_is_the_commit_that_was_loaded() -> None:
    commit = "c" * 40
    assert resolved_revision(f"owner/model@{commit}", "owner/model", None) == commit
    assert resolved_revision(f"owner/model@{commit}", "owner/model", "main") == commit
    assert resolved_revision("0" * 64, "mini", None) is None
    assert resolved_revision("", None, None) is None
