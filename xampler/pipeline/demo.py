"""The demo: the whole pipeline on the embedded data, then a corpus labelled by the registered model."""

import json
from pathlib import Path

from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Table as RichTable

from xampler.config import load_config
from xampler.pipeline.context import Context, Engines
from xampler.pipeline.entry import Screen, open_experiment
from xampler.pipeline.experiment import conf_folder
from xampler.pipeline.finish import finish_run
from xampler.pipeline.label import LabelConfig, LabelOutcome, label_corpus
from xampler.pipeline.plan import run_stages
from xampler.tables.schema import LABELS

SHOWN_LABELS = 8
LOOK_UP = """\
Look the model up from Python, in this folder:
  import mlflow
  model = mlflow.pyfunc.load_model("models:/{name}@champion")
  print(model.predict(["Timu ilishinda mechi ya mwisho kwa mabao mawili."])[["label", "probability"]])"""


def run_demo(env: Path | None, output: Path, screen: Screen) -> None:
    """Run, report, register and label; writes report.html and summary.json into ``output``."""
    with open_experiment(env, conf_folder() / "experiments" / "demo.yaml", (), screen) as context:
        done = run_stages(context)
        finish_run(context, done, summary=output / "summary.json", report=output / "report.html")
        labelled = _label(context)
        _add_labelled(output / "summary.json", labelled)
        console = Console()
        console.print(_labels_table(context.engines, labelled))
        scored = done.prompts_scored + labelled.labelled
        if not scored:
            console.print("Everything was there already: no prompt went through the language model.")
        console.print(f"Report: {output / 'report.html'}   Summary: {output / 'summary.json'}")
        console.print(
            LOOK_UP.format(name=context.experiment.promote.model_name),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _label(context: Context) -> LabelOutcome:
    corpus = conf_folder().parent / "data" / "embedded" / "corpus.jsonl"
    config = load_config(LabelConfig, conf_folder() / "jobs" / "label_corpus.yaml")
    source = config.source.model_copy(update={"path": str(corpus)})
    return label_corpus(context.engines, config.model_copy(update={"source": source}))


def _add_labelled(summary: Path, outcome: LabelOutcome) -> None:
    """The corpus's prompts and time belong to this run as well."""
    values = json.loads(summary.read_text(encoding="utf-8"))
    values["prompts_scored"] += outcome.labelled
    values["seconds"]["label"] = outcome.seconds
    summary.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _labels_table(engines: Engines, labelled: LabelOutcome) -> RichTable:
    version = labelled.model
    rows = (
        engines.store.read(LABELS, model_name=version.name, model_version=version.version)
        .withColumn("probability", F.element_at("probabilities", F.col("label")))
        .orderBy(F.xxhash64("row_id"))
        .limit(SHOWN_LABELS)
        .collect()
    )
    title = f"{SHOWN_LABELS} of {labelled.total} texts labelled by {version.name} version {version.version}"
    table = RichTable(title=title, title_justify="left")
    for column in ("lang", "label", "probability", "text"):
        table.add_column(
            column, no_wrap=True, overflow="ellipsis", max_width=40 if column == "text" else None
        )
    for row in rows:
        table.add_row(row["lang"], row["label"], f"{row['probability']:.2f}", row["text"])
    return table
