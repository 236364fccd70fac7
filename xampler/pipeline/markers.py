"""Markers of finished parts: what the rows of ``stage_runs`` come to, read once per process.

Rows are only ever appended: a fifth of the time of replacing one, and a history of what was done.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import Row, Window
from pyspark.sql import functions as F

from xampler.tables.schema import STAGE_RUNS
from xampler.tables.store import TableStore

FINISHED = "finished"
REOPENED = "reopened"


@dataclass(frozen=True)
class Marker:
    """A part's rows in the tables are of the state with this fingerprint."""

    fingerprint: str
    run_id: str
    result: dict[str, Any]  # JSON that later stages need


@dataclass(frozen=True)
class Finished:
    """A part that an experiment has finished."""

    experiment: str
    marker: Marker
    seconds: float


def find_elsewhere(store: TableStore, experiment: str, fingerprints: Sequence[str]) -> list[Finished]:
    """One finished part per fingerprint, of experiments other than this one."""
    newest_first = Window.partitionBy("experiment", "stage").orderBy(F.desc("at"))
    last = store.read(STAGE_RUNS).withColumn("age", F.row_number().over(newest_first)).where("age = 1")
    others = last.where((F.col("state") == FINISHED) & (F.col("experiment") != experiment))
    wanted = others.where(F.col("fingerprint").isin(*fingerprints)).dropDuplicates(["fingerprint"])
    return [
        Finished(
            row["experiment"],
            Marker(row["fingerprint"], row["run_id"], json.loads(row["result"])),
            row["seconds"],
        )
        for row in wanted.collect()
    ]


class Markers:
    """The markers of one experiment."""

    def __init__(self, store: TableStore, experiment: str) -> None:
        self._store = store
        self._experiment = experiment
        self._known: dict[str, Marker] | None = None

    def find(self, key: str) -> Marker | None:
        """The part's marker, None if it is unfinished."""
        return self._read().get(key)

    def put(self, key: str, marker: Marker, seconds: float) -> None:
        """Mark the part as finished, after ``seconds`` of wall time."""
        plain = replace(marker, result=json.loads(json.dumps(marker.result, default=str)))
        self._append(key, FINISHED, plain, seconds)
        self._read()[key] = plain

    def drop(self, key: str, run_id: str) -> None:
        """Say that this run is about to replace the part's rows, if it was finished."""
        marker = self._read().pop(key, None)
        if marker is not None:
            self._append(key, REOPENED, replace(marker, run_id=run_id), 0.0)

    def seconds(self) -> dict[str, float]:
        """Wall time of each part when it was last finished."""
        return {row["stage"]: row["seconds"] for row in self._rows() if row["state"] == FINISHED}

    def _append(self, key: str, state: str, marker: Marker, seconds: float) -> None:
        result = json.dumps(marker.result)
        now = datetime.now(UTC)
        row = (self._experiment, key, state, marker.fingerprint, result, seconds, marker.run_id, now)
        rows = self._store.spark.createDataFrame([row], STAGE_RUNS.spark_schema())
        self._store.append(STAGE_RUNS, rows)

    def _rows(self) -> list[Row]:
        return self._store.read(STAGE_RUNS, experiment=self._experiment).orderBy("at").collect()

    def _read(self) -> dict[str, Marker]:
        if self._known is None:
            last = {row["stage"]: row for row in self._rows()}
            self._known = {
                stage: Marker(row["fingerprint"], row["run_id"], json.loads(row["result"]))
                for stage, row in last.items()
                if row["state"] == FINISHED
            }
        return self._known
