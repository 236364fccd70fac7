"""Is this machine fit to start? Runs before anything is installed, so it knows the standard library only.

``python3 xampler/preflight.py`` prints one sentence with the remedy and exits with status 2 if it is not.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

MINIMUM_PYTHON = (3, 11)
# Spark 4.2 runs on these; its vectorised code asks for the module, which cut-down runtimes leave out.
JAVA_RELEASES = (17, 21)
VECTOR_MODULE = "jdk.incubator.vector"

_JAVA_REMEDY = (
    "install OpenJDK 17 (Debian or Ubuntu: apt-get install openjdk-17-jre-headless; "
    "macOS: brew install openjdk@17; elsewhere: sdk install java 17-open) "
    "and point JAVA_HOME at it if it is not the first java on the PATH."
)


def python_problem(version: tuple[int, int] = sys.version_info[:2]) -> str | None:
    """What keeps this Python from running the project: one sentence with the remedy, or None."""
    if version < MINIMUM_PYTHON:
        return (
            f"Python {version[0]}.{version[1]} is too old, 3.11 or later is needed: "
            "install one and name it, as in: make PYTHON=python3.11 demo"
        )
    if importlib.util.find_spec("ensurepip") is None:
        return (
            f"{sys.executable} cannot make virtual environments: install its venv module, "
            f"on Debian or Ubuntu: apt-get install python{version[0]}.{version[1]}-venv"
        )
    return None


def java_problem(environ: Mapping[str, str]) -> str | None:
    """What keeps Spark from starting on this machine's Java: one sentence with the remedy, or None.

    Looks where Spark itself will: in ``JAVA_HOME`` if that is set, else on ``PATH``.
    """
    home = environ.get("JAVA_HOME")
    if home:
        java = shutil.which(str(Path(home) / "bin" / "java"))
        if java is None:
            return f"JAVA_HOME is {home}, which has no bin/java: correct or unset it, or {_JAVA_REMEDY}"
    else:
        java = shutil.which("java", path=environ.get("PATH", os.defpath))
        if java is None:
            return f"There is no Java on the PATH, and Spark needs Java 17 or 21: {_JAVA_REMEDY}"
    return _runtime_problem(java, environ)


def _runtime_problem(java: str, environ: Mapping[str, str]) -> str | None:
    modules = _list_modules(java, environ)
    release = re.search(r"^java\.base@(\d+)", modules, re.MULTILINE)
    if release is None:
        return f"{java} is older than Java 9 or does not run, and Spark needs Java 17 or 21: {_JAVA_REMEDY}"
    if int(release[1]) not in JAVA_RELEASES:
        return f"{java} is Java {release[1]}, and Spark needs Java 17 or 21: {_JAVA_REMEDY}"
    if not re.search(rf"^{re.escape(VECTOR_MODULE)}\b", modules, re.MULTILINE):
        return f"{java} lacks the module {VECTOR_MODULE}, which Spark needs: {_JAVA_REMEDY}"
    return None


def _list_modules(java: str, environ: Mapping[str, str]) -> str:
    """The runtime's modules, one ``name@version`` a line; empty if it cannot say."""
    try:
        listing = subprocess.run(
            [java, "--list-modules"],
            env=dict(environ),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return listing.stdout


def main() -> int:
    """Print the first problem; the exit status is 2 if there is one."""
    problem = python_problem() or java_problem(os.environ)
    if problem is not None:
        print(problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
