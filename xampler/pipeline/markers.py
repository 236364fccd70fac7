"""Markers of finished parts: the rows of ``stage_runs``, read once per process."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from xampler.tables.schema import STAGE_RUNS
from xampler.tables.store import TableStore


@dataclass(frozen=True)
class Marker:
    """A part's rows in the tables are of the state with this fingerprint."""

    fingerprint: str
    run_id: str
    result: dict[str, Any]  # JSON that later stages need


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
        """Mark the part as finished, after ``seconds`` of wall time; an older marker of it goes."""
        result = json.dumps(marker.result, default=str)
        row = (
            self._experiment,
            key,
            marker.fingerprint,
            result,
            seconds,
            marker.run_id,
            datetime.now(UTC),
        )
        rows = self._store.spark.createDataFrame([row], STAGE_RUNS.spark_schema())
        self._store.replace(STAGE_RUNS, rows, experiment=self._experiment, stage=key)
        self._read()[key] = replace(marker, result=json.loads(result))

    def drop(self, key: str) -> None:
        """Take the part's marker away, if it has one."""
        if self._read().pop(key, None) is not None:
            rows = self._store.spark.createDataFrame([], STAGE_RUNS.spark_schema())
            self._store.replace(STAGE_RUNS, rows, experiment=self._experiment, stage=key)

    def _read(self) -> dict[str, Marker]:
        if self._known is None:
            rows = self._store.read(STAGE_RUNS, experiment=self._experiment).collect()
            self._known = {
                row["stage"]: Marker(row["fingerprint"], row["run_id"], json.loads(row["result"]))
                for row in rows
            }
        return self._known
