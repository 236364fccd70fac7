"""The way into jobs and commands: configs, logging, engines, and one message for each error."""

import argparse
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyspark.errors import PythonException
from rich.console import Console
from rich.logging import RichHandler

from xampler import errors
from xampler.config import ConfigT, load_config
from xampler.errors import EXIT_STATUS, XamplerError
from xampler.pipeline.context import Context, Engines, Environment, open_engines
from xampler.pipeline.experiment import ExperimentConfig, conf_folder, load_task
from xampler.pipeline.progress import Progress

INTERRUPTED = 130


@dataclass(frozen=True)
class Screen:
    """How much is shown."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False  # show stack traces


@contextmanager
def open_experiment(
    env_path: Path | None, config_path: Path, overrides: Sequence[str], screen: Screen
) -> Iterator[Context]:
    """The experiment of ``config_path`` on the engines of ``env_path`` (None: the embedded ones).

    Raises:
        ConfigError: a file or value does not fit; nothing has been started then.
    """
    experiment = load_config(ExperimentConfig, config_path, overrides)
    task = load_task(experiment.task)
    with open_environment(env_path, f"xampler {experiment.name}", screen) as engines:
        yield Context(engines, experiment, task)


@contextmanager
def open_environment(env_path: Path | None, app_name: str, screen: Screen) -> Iterator[Engines]:
    """The engines of an environment file (None: the embedded ones)."""
    env = load_config(Environment, environment_file(env_path))
    console = set_up_logging(screen, Path(env.log_file))
    with open_engines(env, app_name, Progress(console, quiet=screen.quiet)) as engines:
        yield engines


def environment_file(env_path: Path | None) -> Path:
    """The environment file that is meant (None: the embedded one)."""
    return env_path or conf_folder() / "env" / "local.yaml"


def run_job(main: Callable[[Context], None], argv: Sequence[str] | None = None) -> None:
    """Entry of ``jobs/*.py``: parse the options, call ``main`` and exit the process."""
    arguments = _parse(main.__doc__, argv)

    def run() -> None:
        with open_experiment(arguments.env, arguments.config, arguments.set, _screen(arguments)) as context:
            main(context)

    sys.exit(guard(run, debug=arguments.debug))


def run_engine_job(
    main: Callable[[Engines, ConfigT], None], cls: type[ConfigT], argv: Sequence[str] | None = None
) -> None:
    """Entry of jobs that belong to no experiment; ``--config`` holds a ``cls``."""
    arguments = _parse(main.__doc__, argv)

    def run() -> None:
        config = load_config(cls, arguments.config, arguments.set)
        with open_environment(arguments.env, "xampler", _screen(arguments)) as engines:
            main(engines, config)

    sys.exit(guard(run, debug=arguments.debug))


def guard(run: Callable[[], None], *, debug: bool) -> int:
    """Call ``run``; an error that a user can mend becomes one message. Returns the exit status."""
    try:
        run()
    except KeyboardInterrupt:
        _say("interrupted; run the same command again to go on")
        return INTERRUPTED
    except (XamplerError, PythonException) as error:
        known = error if isinstance(error, XamplerError) else _from_worker(error)
        if known is None:
            raise
        if debug:
            traceback.print_exception(error)
        _say(f"error: {known}")
        return EXIT_STATUS
    return 0


def set_up_logging(screen: Screen, log_file: Path) -> Console:
    """Our own lines to the screen, everybody's to the log file; returns the screen."""
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        to_file = logging.FileHandler(log_file, encoding="utf-8")
    except OSError as error:
        raise errors.StoreError(
            f"the log file {log_file} cannot be written ({error.strerror}); set log_file in the "
            "environment file"
        ) from error
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    console = Console(stderr=True)
    level = logging.WARNING if screen.quiet else logging.DEBUG if screen.verbose else logging.INFO
    to_screen = RichHandler(
        console=console, show_path=False, show_level=False, level=level, log_time_format="%H:%M:%S"
    )
    to_screen.addFilter(logging.Filter("xampler"))
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"  # read when transformers is imported, later
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    logging.captureWarnings(True)
    warnings.simplefilter("ignore", ResourceWarning)
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(to_file)
    root.addHandler(to_screen)
    root.setLevel(logging.WARNING)
    logging.getLogger("xampler").setLevel(logging.DEBUG if screen.verbose else logging.INFO)
    return console


def _from_worker(error: PythonException) -> XamplerError | None:
    """Our own error that a Spark worker raised: it arrives as text."""
    found = re.findall(r"^xampler\.errors\.(\w+): (.*)$", str(error), flags=re.MULTILINE)
    if not found:
        return None
    name, message = found[-1]
    kind = getattr(errors, name, XamplerError)
    return kind(message) if issubclass(kind, XamplerError) else None


def _parse(doc: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--env", type=Path, help="environment file: where (conf/env/*.yaml)")
    parser.add_argument(
        "--config", type=Path, required=True, help="config file: what (conf/experiments/*.yaml)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override one value")
    parser.add_argument("--quiet", action="store_true", help="show warnings only")
    parser.add_argument("--verbose", action="store_true", help="show debug lines")
    parser.add_argument("--debug", action="store_true", help="show stack traces")
    return parser.parse_args(argv)


def _screen(arguments: argparse.Namespace) -> Screen:
    return Screen(arguments.quiet, arguments.verbose, arguments.debug)


def _say(message: str) -> None:
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(message)
