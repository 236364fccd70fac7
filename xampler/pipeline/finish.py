"""What a run leaves for people: the table on the screen, the report, the summary file."""

import json
import logging
from pathlib import Path

from rich.console import Console

from xampler.errors import StoreError
from xampler.pipeline.context import Context
from xampler.pipeline.label import LabelOutcome
from xampler.pipeline.plan import RunSummary
from xampler.pipeline.report import accuracy_table, read_report, render_report, summarise

logger = logging.getLogger(__name__)


def finish_run(context: Context, done: RunSummary, *, summary: Path | None, report: Path | None) -> None:
    """Print the table of accuracies; write the summary and the report where asked for."""
    data = read_report(context, prompts_scored=done.prompts_scored, seconds=done.seconds)
    Console().print(accuracy_table(data))
    if summary is not None:
        write_whole(summary, json.dumps(summarise(data), ensure_ascii=False, indent=1) + "\n")
    if report is not None:
        write_whole(report, render_report(data))


def write_report(context: Context, output: Path) -> None:
    """Write the report of a finished run."""
    write_whole(output, render_report(read_report(context)))


def say_labelled(outcome: LabelOutcome) -> None:
    """One line on what labelling came to."""
    model = f"{outcome.model.name} version {outcome.model.version}"
    logger.info(
        "%d rows labelled now, %d in all, %d rejected, by %s; see the table labels",
        outcome.labelled,
        outcome.total,
        outcome.rejected,
        model,
    )


def write_whole(path: Path, text: str) -> None:
    """Write the whole file or none of it.

    Raises:
        StoreError: the path cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.rename(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}); name another place") from error
    logger.info("wrote %s", path)
