"""What Spark, Delta and MLflow cost around the scorer: ``python -m benchmarks.spark_overhead``.

The pairs of an experiment are scored twice, on one core: by the score stage, and by a script that calls
``xampler.score_demonstrations`` with the same rows. The stage finds a session and a worker that run already.
"""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import pandas as pd
import typer
import yaml

from benchmarks import EMBEDDED, markdown_table
from xampler.pipeline.context import Context
from xampler.pipeline.entry import Screen, open_experiment
from xampler.pipeline.experiment import conf_folder
from xampler.pipeline.plan import run_stages
from xampler.pipeline.prompts import PromptPlan, missing_work, prompt_plan
from xampler.pipeline.score import one_shot_work, score_part
from xampler.pipeline.stage import run_part
from xampler.tables.schema import SCORES


def main(
    data: Annotated[Path, typer.Option(help="SIB-200 folder, or another in its layout.")] = EMBEDDED,
    candidates: Annotated[int, typer.Option(min=1, help="Of a query, each of which is a prompt.")] = 10,
    ivy: Annotated[Path, typer.Option(help="Where the Delta jars are kept.")] = Path(".xampler/ivy"),
) -> None:
    """Measure the score stage beside the bare scorer, with the mini language model, one worker each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logging.getLogger("xampler").setLevel(logging.WARNING)
    overrides = (
        f"data.source.root={data.resolve()}",
        "data.select.dev=[eng_Latn]",
        "data.select.test=[eng_Latn]",
        "propose.by.encoder.model=mini",
        f"propose.k={candidates}",
    )
    config = conf_folder() / "experiments" / "sib200.yaml"
    with (
        TemporaryDirectory() as folder,
        open_experiment(_environment(Path(folder), ivy), config, overrides, Screen(quiet=True)) as context,
    ):
        run_stages(context, ("ingest", "propose"))
        rows, plan = _work(context), prompt_plan(context)
        work = Path(folder, "work.json")
        _write_work(rows.head(1), plan, work)
        _bare(work)  # libraries and weights are in the file cache from here on, for both
        _write_work(rows, plan, work)
        script, scorer = _bare(work)
        started = time.perf_counter()
        run_part(context, score_part(context))
        stage = time.perf_counter() - started
    ways = (
        ("score stage", stage),
        ("script, from its start to its end", script),
        ("scorer in the script", scorer),
    )
    typer.echo(
        markdown_table(
            ("what", "prompts", "seconds", "prompts/s", "the stage's overhead"),
            [
                [
                    name,
                    f"{len(rows):,}",
                    f"{seconds:.1f}",
                    f"{len(rows) / seconds:,.0f}",
                    "" if seconds == stage else f"{1 - seconds / stage:.1%}",
                ]
                for name, seconds in ways
            ],
        )
    )


def _environment(folder: Path, ivy: Path) -> Path:
    values = {
        "tables": {"path": str(folder / "tables")},
        "spark": {"master": "local[1]", "ivy": str(ivy)},
        "tracking": {"uri": f"sqlite:///{folder / 'mlflow.db'}", "artifacts": str(folder / "mlruns")},
        "work_dir": str(folder / "work"),
        "log_file": str(folder / "xampler.log"),
    }
    path = folder / "env.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def _work(context: Context) -> pd.DataFrame:
    """The rows that the stage will score, in the order in which equal demonstrations are neighbours."""
    return missing_work(context, SCORES, one_shot_work(context)).orderBy("demonstration_ids").toPandas()


def _write_work(rows: pd.DataFrame, plan: PromptPlan, path: Path) -> None:
    """What the script hands to ``score_demonstrations``."""
    shown = [[plan.demonstrations[i] for i in ids] for ids in rows["demonstration_ids"]]
    work = {
        "queries": rows["query_text"].tolist(),
        "demonstrations": [[(shot.text, shot.label_words) for shot in shots] for shots in shown],
        "labels": plan.task.label_words,
        "template": plan.task.template,
        "separator": plan.task.separator,
        "max_text_tokens": plan.prompt.max_text_tokens,
    }
    path.write_text(json.dumps(work), encoding="utf-8")


def _bare(work: Path) -> tuple[float, float]:
    """Seconds of the script, and of its scoring with the model loaded."""
    command = [sys.executable, "-m", "benchmarks.bare_scorer", str(work)]
    started = time.perf_counter()
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return time.perf_counter() - started, float(printed.splitlines()[-1])


if __name__ == "__main__":
    typer.run(main)
