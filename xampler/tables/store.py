"""Delta tables: create, read, replace a slice, insert what is missing. Only this file knows the format.

Tables are reached by path (embedded mode, no metastore) or by catalog name (on a cluster).
"""

import logging
import random
import time
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Self

from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pydantic import model_validator
from pyspark.errors import AnalysisException, PySparkException, PythonException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from xampler.config import Config
from xampler.errors import SchemaError, StoreError
from xampler.tables.schema import Table

logger = logging.getLogger(__name__)

CONSTRAINT = "xampler_rows"
# What Delta says when another run has committed in between. Every write here may be repeated.
CONFLICTS = ("DELTA_CONCURRENT", "DELTA_METADATA_CHANGED", "DELTA_PROTOCOL_CHANGED")
TRIES = 6


class TablesConfig(Config):
    """Where the tables live: a folder (local or object store), or a catalog schema."""

    path: str | None = None  # folder; one table a subfolder
    schema_name: str | None = None  # `catalog.schema` or `schema`; one table a name in it

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.path is None) == (self.schema_name is None):
            raise ValueError("give either path or schema_name")
        return self


class TableStore:
    """All tables of one place.

    Raises:
        StoreError: the place cannot be written.
    """

    def __init__(self, spark: SparkSession, config: TablesConfig) -> None:
        self.spark = spark
        self._config = config
        self._existing: set[str] = set()
        check_writable(config)

    def exists(self, table: Table) -> bool:
        """Whether the table was ever written."""
        if table.name not in self._existing and self._is_table(table):
            self._existing.add(table.name)
        return table.name in self._existing

    def read(self, table: Table, **where: str) -> DataFrame:
        """Exactly the table's columns, of the rows whose columns equal ``where``; empty if never written.

        Raises:
            StoreError: the table is there but cannot be read.
            SchemaError: the stored table lacks a column.
        """
        if not self.exists(table):
            return self.spark.createDataFrame([], table.spark_schema())
        try:
            stored = self.spark.table(self._name(table)).select(*table.column_names)
        except AnalysisException as error:
            if "UNRESOLVED_COLUMN" in str(error):
                raise SchemaError(
                    f"table {table.name}: {_first_line(error)}; was it written by another version?"
                ) from error
            raise StoreError(f"table {table.name} cannot be read: {_first_line(error)}") from error
        return stored.where(_equals(where)) if where else stored

    def read_version(self, table: Table, version: int, **where: str) -> DataFrame:
        """As :meth:`read`, of the table as it was at a Delta version, whatever is written meanwhile.

        Raises:
            StoreError: that version is not kept any more, or never was.
        """
        try:
            stored = self.spark.sql(f"SELECT * FROM {self._name(table)} VERSION AS OF {version:d}")
            stored.schema  # noqa: B018 - analysed here, where the error can be explained
        except (AnalysisException, Py4JJavaError) as error:
            raise StoreError(
                f"table {table.name} has no version {version}: {_first_line(error)}; it was vacuumed, or "
                "these are other tables"
            ) from error
        rows = stored.select(*table.column_names)
        return rows.where(_equals(where)) if where else rows

    def version(self, table: Table) -> int | None:
        """The table's Delta version, None if never written."""
        if not self.exists(table):
            return None
        path = self._path(table)
        if path is not None and "://" not in path:
            # A commit is a file named by its version: a look at the folder, where the history is a Spark job.
            return max(int(commit.stem) for commit in Path(path, "_delta_log").glob("*[0-9].json"))
        [row] = self._delta(table).history(1).select("version").collect()
        return int(row["version"])

    def replace(self, table: Table, rows: DataFrame, **where: str) -> int:
        """Replace the rows whose columns equal ``where`` by ``rows``, in one commit; returns their number.

        Raises:
            SchemaError: a row violates the schema, the constraints or the slice, or a key occurs twice.
            StoreError: the table cannot be written.
        """
        self._create(table)
        conformed = _conform(rows, table).persist()
        try:
            count = _check_key(conformed, table)
            writer = conformed.write.format("delta").mode("overwrite")
            if where:
                writer = writer.option("replaceWhere", _predicate(where))
            path = self._path(table)
            name = self._name(table)
            _write(lambda: writer.save(path) if path else writer.saveAsTable(name), table)
        except PythonException:  # an error of a worker, which says what is wrong
            raise
        except (Py4JJavaError, PySparkException) as error:
            raise _explain(error, table) from error
        finally:
            conformed.unpersist()
        return count

    def replace_if_changed(self, table: Table, rows: DataFrame, **where: str) -> int:
        """As :meth:`replace`, but nothing is written where the slice holds these rows already.

        Raises:
            SchemaError, StoreError: as :meth:`replace`.
        """
        conformed = _conform(rows, table).persist()
        try:
            stored = self.read(table, **where)
            if self.exists(table) and not _differ(conformed, stored):
                return conformed.count()
            return self.replace(table, conformed, **where)
        finally:
            conformed.unpersist()

    def append(self, table: Table, rows: DataFrame) -> None:
        """Add rows whose keys are new by their nature, in one commit: nothing that is there is read.

        Raises:
            SchemaError: a row violates the schema or the constraints.
            StoreError: the table cannot be written.
        """
        self._create(table)
        writer = _conform(rows, table).write.format("delta").mode("append")
        path, name = self._path(table), self._name(table)
        _write(lambda: writer.save(path) if path else writer.saveAsTable(name), table)

    def insert_missing(self, table: Table, rows: DataFrame) -> None:
        """Insert the rows whose key is not there yet, in one commit: an insert-only MERGE on the key.

        ``rows`` is evaluated once for the join and again for the insert unless it is stored: pass
        stored rows (read back from a file, or persisted).

        Raises:
            SchemaError: a row violates the schema or the constraints.
            StoreError: the table cannot be written.
        """
        self._create(table)
        on = " AND ".join(f"stored.{column} = new.{column}" for column in table.key)
        new = _conform(rows, table).alias("new")

        def merge() -> None:
            stored = self._delta(table).alias("stored")
            stored.merge(new, on).whenNotMatchedInsertAll().execute()

        _write(merge, table)

    def _create(self, table: Table) -> None:
        if self.exists(table):
            return
        builder = DeltaTable.createIfNotExists(self.spark).comment(table.comment)
        path = self._path(table)
        builder = builder.location(path) if path else builder.tableName(self._name(table))
        for column in table.columns:
            builder = builder.addColumn(
                column.name, column.type, nullable=column.nullable, comment=column.comment
            )
        if table.checks:
            # One commit, and a fifth of the time, of CREATE and then ALTER TABLE ... ADD CONSTRAINT.
            checks = " AND ".join(f"({check})" for check in table.checks)
            builder = builder.property(f"delta.constraints.{CONSTRAINT}", checks)
        try:
            (builder.clusterBy(*table.cluster_by) if table.cluster_by else builder).execute()
        except (Py4JJavaError, PySparkException) as error:
            if not any(reason in str(error) for reason in ("already exists", *CONFLICTS)):
                raise _explain(error, table) from error
        self._existing.add(table.name)

    def _is_table(self, table: Table) -> bool:
        path = self._path(table)
        if path is None:
            return self.spark.catalog.tableExists(self._name(table))
        return DeltaTable.isDeltaTable(self.spark, path)

    def _delta(self, table: Table) -> DeltaTable:
        path = self._path(table)
        return (
            DeltaTable.forPath(self.spark, path)
            if path
            else DeltaTable.forName(self.spark, self._name(table))
        )

    def _path(self, table: Table) -> str | None:
        root = self._config.path
        if root is None:
            return None
        return f"{root}/{table.name}" if "://" in root else str(Path(root).resolve() / table.name)

    def _name(self, table: Table) -> str:
        path = self._path(table)
        return f"delta.`{path}`" if path else f"{self._config.schema_name}.{table.name}"


def check_writable(config: TablesConfig) -> None:
    """Make sure that a local store can be written; others show it when they are written.

    Raises:
        StoreError: it cannot.
    """
    if config.path is None or "://" in config.path:
        return
    path = Path(config.path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # another run may probe as well
    except OSError as error:
        raise StoreError(
            f"the table store {path} cannot be written ({error.strerror}); set tables.path in the "
            "environment file to a folder that can"
        ) from error


def _write(write: Callable[[], None], table: Table) -> None:
    """Call ``write``, again where another run committed in between."""
    for attempt in range(1, TRIES + 1):
        try:
            write()
        except PythonException:  # an error of a worker, which says what is wrong
            raise
        except (Py4JJavaError, PySparkException) as error:
            if attempt == TRIES or not any(conflict in str(error) for conflict in CONFLICTS):
                raise _explain(error, table) from error
            logger.info("table %s: another run has just written it; trying again", table.name)
            time.sleep(random.uniform(0.5, 2.0) * attempt)
        else:
            return


def _conform(rows: DataFrame, table: Table) -> DataFrame:
    missing = [name for name in table.column_names if name not in rows.columns]
    if missing:
        raise SchemaError(f"table {table.name}: rows lack the columns {missing}")
    return rows.select(*[F.col(c.name).cast(c.type).alias(c.name) for c in table.columns])


def _differ(left: DataFrame, right: DataFrame) -> bool:
    return not (left.exceptAll(right).isEmpty() and right.exceptAll(left).isEmpty())


def _check_key(rows: DataFrame, table: Table) -> int:
    """The number of rows, none of which may share its key with another."""
    [counts] = rows.agg(
        F.count("*").alias("rows"), F.count_distinct(F.struct(*table.key)).alias("keys")
    ).collect()
    if counts["keys"] != counts["rows"]:
        repeated = rows.groupBy(*table.key).count().where("count > 1").first()
        raise SchemaError(f"table {table.name}: the key {table.key} occurs more than once, e.g. {repeated}")
    return int(counts["rows"])


def _equals(where: dict[str, str]) -> Column:
    return reduce(lambda a, b: a & b, (F.col(name) == value for name, value in where.items()))


def _predicate(where: dict[str, str]) -> str:
    escaped = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in where.items()}
    return " AND ".join(f"{name} = '{value}'" for name, value in escaped.items())


def _explain(error: Exception, table: Table) -> SchemaError | StoreError:
    text = str(error)
    if "DELTA_VIOLATE_CONSTRAINT" in text or "DELTA_NOT_NULL_CONSTRAINT_VIOLATED" in text:
        checks = ", ".join(table.checks) or "no column may be null"
        return SchemaError(f"table {table.name}: a row violates its constraints ({checks})")
    return StoreError(f"table {table.name} cannot be written: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    java = getattr(error, "java_exception", None)
    text = str(java.getMessage()) if java is not None else str(error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
