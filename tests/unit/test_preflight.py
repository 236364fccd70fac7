"""The checks before anything starts, against runtimes of every unsuitable kind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xampler import preflight
from xampler.preflight import VECTOR_MODULE, java_problem, python_problem

REMEDY = "apt-get install openjdk-17-jre-headless"


def make_java(home: Path, *modules: str, status: int = 0) -> Path:
    """A stand-in for ``java --list-modules`` that names ``modules``; returns its folder."""
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True)
    listing = "\n".join(modules)
    java.write_text(f"#!/bin/sh\n[ \"$1\" = --list-modules ] || exit 9\necho '{listing}'\nexit {status}\n")
    java.chmod(0o755)
    return java.parent


def modules_of(release: str, *names: str) -> list[str]:
    return [f"{name}@{release}" for name in ("java.base", "java.sql", *names, "jdk.zipfs")]


@pytest.mark.parametrize("release", ["17.0.15", "17", "21.0.8", "21-ea"])
def test_a_suitable_java_on_the_path_has_no_problem(tmp_path: Path, release: str) -> None:
    folder = make_java(tmp_path, *modules_of(release, VECTOR_MODULE))

    assert java_problem({"PATH": str(folder)}) is None


@pytest.mark.parametrize("release", ["11.0.27", "18.0.2", "25", "170.1"])
def test_another_release_is_named_and_refused(tmp_path: Path, release: str) -> None:
    folder = make_java(tmp_path, *modules_of(release, VECTOR_MODULE))

    problem = java_problem({"PATH": str(folder)})

    assert problem is not None
    assert f"{folder / 'java'} is Java {release.split('.')[0]}, and Spark needs Java 17 or 21" in problem
    assert REMEDY in problem


@pytest.mark.parametrize("present", [(), (f"{VECTOR_MODULE}s",), (f"not.{VECTOR_MODULE}",)])
def test_a_runtime_without_the_vector_module_is_refused(tmp_path: Path, present: tuple[str, ...]) -> None:
    folder = make_java(tmp_path, *modules_of("17.0.15", *present))

    problem = java_problem({"PATH": str(folder)})

    assert problem is not None
    assert f"lacks the module {VECTOR_MODULE}" in problem
    assert REMEDY in problem


def test_no_java_at_all(tmp_path: Path) -> None:
    problem = java_problem({"PATH": str(tmp_path)})

    assert problem is not None
    assert problem.startswith("There is no Java on the PATH")
    assert REMEDY in problem


def test_a_java_that_cannot_list_its_modules(tmp_path: Path) -> None:
    """Java 8 does not know the option; macOS has a java that only says where to get one."""
    folder = make_java(tmp_path, "Unrecognized option: --list-modules", status=1)

    problem = java_problem({"PATH": str(folder)})

    assert problem is not None
    assert "is older than Java 9 or does not run" in problem


def test_a_java_that_is_no_program(tmp_path: Path) -> None:
    folder = make_java(tmp_path)
    (folder / "java").write_bytes(b"\x7fELF")

    problem = java_problem({"PATH": str(folder)})

    assert problem is not None
    assert "does not run" in problem


def test_java_home_comes_before_the_path(tmp_path: Path) -> None:
    on_path = make_java(tmp_path / "eleven", *modules_of("11"))
    make_java(tmp_path / "seventeen", *modules_of("17", VECTOR_MODULE))

    assert java_problem({"PATH": str(on_path), "JAVA_HOME": str(tmp_path / "seventeen")}) is None


def test_java_home_without_a_java_is_not_passed_over(tmp_path: Path) -> None:
    """Spark would take it, and fail."""
    on_path = make_java(tmp_path, *modules_of("17", VECTOR_MODULE))

    problem = java_problem({"PATH": str(on_path), "JAVA_HOME": "/no/such/jdk"})

    assert problem is not None
    assert problem.startswith("JAVA_HOME is /no/such/jdk, which has no bin/java")


def test_an_empty_java_home_counts_as_unset(tmp_path: Path) -> None:
    on_path = make_java(tmp_path, *modules_of("21", VECTOR_MODULE))

    assert java_problem({"PATH": str(on_path), "JAVA_HOME": ""}) is None


def test_python_versions() -> None:
    too_old = python_problem((3, 10))

    assert too_old is not None
    assert "Python 3.10 is too old" in too_old
    assert python_problem((3, 11)) is None
    assert python_problem((3, 13)) is None


@pytest.mark.parametrize("flags", [("-I",), ("-S", "-E")])
def test_the_script_runs_alone_and_says_one_sentence(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Neither the package nor anything installed is there yet."""
    done = subprocess.run(
        [sys.executable, *flags, str(Path(preflight.__file__))],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (2, "")
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("There is no Java on the PATH")


def test_the_script_is_silent_on_a_fit_machine(tmp_path: Path) -> None:
    folder = make_java(tmp_path, *modules_of("17", VECTOR_MODULE))
    done = subprocess.run(
        [sys.executable, "-I", str(Path(preflight.__file__))],
        env={"PATH": f"{folder}{os.pathsep}{os.defpath}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
