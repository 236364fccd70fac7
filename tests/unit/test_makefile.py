"""The Makefile's own work, the checks and the virtual environment, with a stand-in for Python and uv."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TARGETS = {
    "help",
    "demo",
    "test",
    "lint",
    "fmt",
    "types",
    "test-unit",
    "test-spark",
    "test-gpu",
    "bench",
    "clean",
}

# Notes what it was asked to do; `-m venv` gives copies of itself, so every command of .venv is one.
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> {log}
case "$*" in
    "-m venv --clear .venv") rm -rf .venv; mkdir -p .venv/bin
        for name in python uv xampler; do cp "$0" .venv/bin/$name; done ;;
    -c*) exec {python} "$@" ;;
    pip*) exit "${{UV_STATUS:-0}}" ;;
    *preflight.py) exit "${{JAVA_STATUS:-0}}" ;;
esac
"""
VENV = "python3 -m venv --clear .venv"
UV = "python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv"
INSTALL = "uv pip install --quiet --python .venv/bin/python -c constraints.txt -e .[dev]"


class Clone:
    """A copy of what the Makefile reads, without the project's code."""

    def __init__(self, root: Path) -> None:
        self.root = root / "clone"
        self.log = root / "log"
        self.root.mkdir()
        for name in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        self.python = root / "bin" / "python3"
        self.python.parent.mkdir()
        self.python.write_text(STAND_IN.format(log=self.log, python=sys.executable))
        self.python.chmod(0o755)

    def make(self, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run make, free of what a make around the tests hands down."""
        self.log.write_text("")
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
        }
        return subprocess.run(
            ["make", f"PYTHON={self.python}", *args],
            cwd=self.root,
            env=inherited | environ,
            capture_output=True,
            text=True,
            check=False,
        )

    def steps(self) -> list[str]:
        """What the stand-ins were asked to do, without the checks."""
        steps = self.log.read_text().splitlines()
        return [step for step in steps if " -c " not in step.replace(" -c constraints.txt", "")]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_help_is_the_default_and_lists_every_target(clone: Clone) -> None:
    listed = clone.make().stdout

    assert set(re.findall(r"make (\S+)", listed)) == TARGETS
    assert clone.steps() == []


def test_demo_makes_the_virtual_environment_once(clone: Clone) -> None:
    assert clone.make("demo").returncode == 0
    assert clone.steps() == ["python3 xampler/preflight.py", VENV, UV, INSTALL, "xampler demo"]

    assert clone.make("demo").returncode == 0
    assert clone.steps() == ["python3 xampler/preflight.py", "xampler demo"]


def test_changed_requirements_bring_it_up_to_date(clone: Clone) -> None:
    clone.make("demo")
    later = (clone.root / ".venv/.installed").stat().st_mtime + 60
    os.utime(clone.root / "constraints.txt", (later, later))

    clone.make("demo")

    assert clone.steps() == ["python3 xampler/preflight.py", UV, INSTALL, "xampler demo"]


def test_an_interrupted_installation_is_made_anew(clone: Clone) -> None:
    assert clone.make("demo", UV_STATUS="1").returncode == 2
    assert "xampler demo" not in clone.steps()

    clone.make("demo")

    assert clone.steps() == ["python3 xampler/preflight.py", VENV, UV, INSTALL, "xampler demo"]


def test_a_python_that_no_longer_runs_is_made_anew(clone: Clone) -> None:
    clone.make("demo")
    (clone.root / ".venv/bin/python").unlink()
    (clone.root / ".venv/bin/python").symlink_to("/no/such/python")

    clone.make("demo")

    assert VENV in clone.steps()


def test_a_copied_clone_makes_its_own(clone: Clone, tmp_path: Path) -> None:
    clone.make("demo")
    moved = clone.root.rename(tmp_path / "moved")
    clone.root = moved

    clone.make("demo")

    assert VENV in clone.steps()


def test_without_a_fit_java_nothing_is_made(clone: Clone) -> None:
    assert clone.make("demo", JAVA_STATUS="2").returncode == 2

    assert clone.steps() == ["python3 xampler/preflight.py"]
    assert not (clone.root / ".venv").exists()


def test_linting_needs_no_java(clone: Clone) -> None:
    clone.make("lint", JAVA_STATUS="2")

    assert clone.steps()[:3] == [VENV, UV, INSTALL]


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/false"])
def test_an_unfit_python_gets_one_sentence(clone: Clone, python: str) -> None:
    done = clone.make(f"PYTHON={python}", "demo")

    assert done.returncode == 2
    sentence, make_says = done.stderr.splitlines()
    assert sentence.startswith(f"{python} is not Python 3.11 or later")
    assert make_says.startswith("make: ***")
    assert not (clone.root / ".venv").exists()


def test_clean_keeps_the_virtual_environment_the_sources_and_the_data(clone: Clone) -> None:
    clone.make("demo")
    caches = ("xampler/core/__pycache__", ".mypy_cache")
    for made in ("demo/report.html", ".xampler/tables", "mlruns/0", *caches):
        (clone.root / made).mkdir(parents=True)
    (clone.root / "mlflow.db").touch()

    assert clone.make("clean").returncode == 0

    assert {path.name for path in clone.root.iterdir()} == {
        ".venv", "Makefile", "setup.cfg", "pyproject.toml", "constraints.txt", "xampler",
        ".xampler", "mlruns", "mlflow.db",  # tables and runs: never lose data
    }  # fmt: skip
    assert [path.name for path in (clone.root / "xampler").iterdir()] == ["core"]
    assert clone.make("lint").returncode == 2
    assert clone.steps() == [], "the virtual environment was still whole"
