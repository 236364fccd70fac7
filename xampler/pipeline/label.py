"""Label: a corpus of any size in, a Delta table of labels out, by a model from the registry."""

import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import Field
from pyspark import StorageLevel
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from xampler.config import Config
from xampler.core.task import Task
from xampler.models.build import load_language_model
from xampler.models.labeller import Labeller, load_labeller, read_spec
from xampler.pipeline.context import Engines
from xampler.pipeline.ingest import id_column
from xampler.pipeline.model_work import Counts, add_counts, start_counts
from xampler.pipeline.prompts import ROWS_PER_CALL, TRUNCATIONS, commit_chunks, regroup, task_count
from xampler.pipeline.sources import Selection, TableSource, load_languages, read_texts
from xampler.pipeline.task_gpu import take_task_gpu, tasks_at_once
from xampler.pipeline.worker import keep_loaded
from xampler.tables.schema import INT, LABELS, LABELS_REJECTED
from xampler.tracking.registry import CHAMPION, FINGERPRINT_TAG, Version, download_labeller

logger = logging.getLogger(__name__)

REPEATED_ID = "the id occurs more than once"


class LabelConfig(Config):
    """Which corpus to label, and with which model."""

    corpus: str = Field(min_length=1)  # name of the corpus in the labels table
    source: TableSource
    model_name: str = Field(min_length=1)  # in the MLflow registry
    alias: str = CHAMPION  # an alias, or a version number
    rows_per_commit: int = Field(default=5000, ge=1)


@dataclass(frozen=True)
class LabelOutcome:
    """What labelling came to."""

    labelled: int  # rows labelled in this run
    total: int  # rows of the corpus that have a label now
    rejected: int
    model: Version
    seconds: float


@dataclass(frozen=True)
class _Work:
    corpus: str
    folder: Path
    version: Version
    run_id: str


def label_corpus(engines: Engines, config: LabelConfig) -> LabelOutcome:
    """Label the rows of the corpus that this model version has not labelled yet.

    Raises:
        TrackingError: the registry has no such model.
        DataError: the corpus cannot be read.
    """
    started = time.monotonic()
    folder, version = _fetch(engines, config)
    task = read_spec(folder).task
    with engines.tracker.start_run(f"label-{config.corpus}", "label", {"xampler.stage": "label"}) as run:
        run.log_yaml(config.model_dump(mode="json"), "config.yaml")
        texts, rejected = _read_corpus(engines, config, task)
        rejects = engines.store.replace_if_changed(LABELS_REJECTED, rejected, corpus=config.corpus)
        key = {"corpus": config.corpus, "model_name": version.name, "model_version": version.version}
        stored = engines.store.read(LABELS, **key).select("row_id")
        missing = texts.join(stored, on="row_id", how="left_anti").persist(StorageLevel.MEMORY_AND_DISK)
        count = missing.count()
        work = _Work(config.corpus, folder, version, run.run_id)
        figures = _label_chunks(engines, missing, count, config.rows_per_commit, work) if count else {}
        missing.unpersist()
        seconds = time.monotonic() - started
        run.log_params(
            {
                "model": f"{version.name}/{version.version}",
                "version_out.labels": engines.store.version(LABELS),
            }
        )
        figures |= {"rows": count, "seconds": seconds, "rows_per_s": count / seconds}
        run.log_metrics({f"label/{name}": value for name, value in figures.items()})
    logger.info("label: %d rows of %s in %.1f s", count, config.corpus, seconds)
    return LabelOutcome(count, engines.store.read(LABELS, **key).count(), rejects, version, seconds)


def _fetch(engines: Engines, config: LabelConfig) -> tuple[Path, Version]:
    """Put the labeller where all workers see it."""
    downloaded, version = download_labeller(engines.tracker, config.model_name, config.alias)
    # Two registries can have a version of the same name and number: the fingerprint tells them apart.
    state = version.tags.get(FINGERPRINT_TAG, "")[:12]
    folder = Path(engines.env.work_dir).resolve() / "labellers" / f"{version.name}-{version.version}-{state}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent))
        shutil.copytree(downloaded, partial, dirs_exist_ok=True)
        try:
            partial.rename(folder)
        except OSError:  # another run was quicker
            shutil.rmtree(partial)
    return folder, version


def _read_corpus(engines: Engines, config: LabelConfig, task: Task) -> tuple[DataFrame, DataFrame]:
    """Texts with ``row_id``, each id once, and the rejected rows."""
    everything = Selection.model_validate({config.source.split: "all"})
    read = read_texts(engines.spark, config.source, everything, task, load_languages())
    named = read.texts.withColumn("row_id", F.coalesce("parallel_id", id_column(task.name)))
    same_id = Window.partitionBy("row_id").orderBy("source", "row")
    numbered = named.withColumn("repeat", F.row_number().over(same_id))
    # A text that occurs again without an id of its own has its label already.
    repeats = numbered.where("repeat > 1 AND parallel_id IS NOT NULL").select(
        "source", "row", F.lit(REPEATED_ID).alias("reason"), F.col("text").alias("content")
    )
    rejected = read.rejected.unionByName(repeats).withColumn("corpus", F.lit(config.corpus))
    return numbered.where("repeat = 1").select("row_id", "lang", "source_lang", "text"), rejected


def _label_chunks(
    engines: Engines, missing: DataFrame, total: int, rows_per_commit: int, work: _Work
) -> dict[str, float]:
    chunks = math.ceil(total / rows_per_commit)
    chunk = F.pmod(F.xxhash64("row_id"), F.lit(chunks))
    spark = engines.spark.sparkContext
    schema = LABELS.spark_schema()
    for name in TRUNCATIONS:
        schema.add(name, INT)
    counts = start_counts(spark)
    label_task = _label_task(work, schema.names, counts)

    def label(number: int) -> DataFrame:
        tasks = task_count(math.ceil(total / chunks), tasks_at_once(spark))
        rows = missing.where(chunk == number).repartition(tasks, "row_id")
        return rows.mapInPandas(label_task, schema)

    return commit_chunks(engines, LABELS, map(label, range(chunks)), total, counts)


def _label_task(
    work: _Work, names: list[str], counts: Counts
) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    def label_task(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        take_task_gpu()
        labeller = keep_loaded(load_labeller, work.folder)
        keep_loaded(load_language_model, labeller.spec.language_model)  # before its seconds are counted
        for rows in regroup(batches, ROWS_PER_CALL):
            started = time.perf_counter()
            labelled = label_rows(rows, labeller)
            add_counts(counts, labeller.statistics, time.perf_counter() - started)
            yield labelled.assign(
                corpus=work.corpus,
                model_name=work.version.name,
                model_version=work.version.version,
                run_id=work.run_id,
            )[names]

    return label_task


def label_rows(rows: pd.DataFrame, labeller: Labeller) -> pd.DataFrame:
    """The rows (``text``, ``lang``) with their labels, and what their prompts lost, as columns."""
    labelled = labeller.label_texts(rows["text"].tolist(), rows["lang"].tolist())
    given = ("label", "probabilities", "demonstration_ids", *TRUNCATIONS)
    return rows.assign(**{name: [getattr(item, name) for item in labelled] for name in given})
