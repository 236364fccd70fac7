"""Read any source: the one entry for benchmarks and own data."""

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from xampler.core.language import Languages
from xampler.core.task import Task
from xampler.errors import DataError
from xampler.pipeline.sources.benchmarks import (
    Benchmark,
    BenchmarkRow,
    FolderBenchmark,
    MasakhanewsBenchmark,
    Taxi1500Benchmark,
)
from xampler.pipeline.sources.config import (
    MasakhanewsSource,
    Selection,
    Sib200Source,
    Source,
    TableSource,
    Taxi1500Source,
)
from xampler.pipeline.sources.rows import (
    CONTENT_CHARACTERS,
    EMPTY_TEXT,
    NO_LABEL,
    REJECTED_SCHEMA,
    TEXTS_SCHEMA,
    TextsRead,
)
from xampler.pipeline.sources.selecting import Chosen, Offer, choose
from xampler.pipeline.sources.table import read_table


def read_texts(
    spark: SparkSession, source: Source, selection: Selection, task: Task, languages: Languages
) -> TextsRead:
    """Read the selected languages and splits of a source.

    Benchmarks are read at once, on the driver; own data is checked in one pass over it here and read by
    Spark whenever the result is used.

    Raises:
        DataError: the source or one of its files cannot be read as its format says, a label of a benchmark
            is not in the task, or the selection names what is not there.
        LanguageCodeError: the selection names something that is no language code.
    """
    if isinstance(source, TableSource):
        return read_table(spark, source, selection, task, languages)
    return _read_benchmark(spark, _open(source), selection, task, languages)


def _open(source: Sib200Source | MasakhanewsSource | Taxi1500Source) -> Benchmark:
    match source:
        case Sib200Source(root=str(root)):
            return FolderBenchmark(root)
        case MasakhanewsSource(root=str(root), text=form):
            return MasakhanewsBenchmark(root, form)
        case Taxi1500Source(root=root):
            return Taxi1500Benchmark(root)
        case _:
            return _open_hub(source)


def _open_hub(source: Sib200Source | MasakhanewsSource) -> Benchmark:
    # `datasets` takes seconds to import, in every Python worker of Spark too.
    from xampler.pipeline.sources.hub import HubBenchmark, make_masakhanews_row, make_sib200_row

    make_row = make_sib200_row if isinstance(source, Sib200Source) else make_masakhanews_row(source.text)
    return HubBenchmark(str(source.hub), source.revision, make_row)


def _read_benchmark(
    spark: SparkSession, benchmark: Benchmark, selection: Selection, task: Task, languages: Languages
) -> TextsRead:
    offer = Offer(benchmark.origin, benchmark.languages(), benchmark.splits_of)
    chosen, warnings = choose(offer, selection, languages)
    texts: list[tuple[str | int | None, ...]] = []
    rejected: list[tuple[str | int | None, ...]] = []
    for item in chosen:
        for row in benchmark.read(item.source_lang, item.split):
            reason = _find_fault(row, task)
            if reason is None:
                texts.append(_to_text(item, row))
            else:
                content = "\t".join(part for part in (row.parallel_id, row.label, row.text) if part)
                rejected.append((row.source, row.row, reason, content[:CONTENT_CHARACTERS]))
    return TextsRead(
        _to_frame(spark, texts, TEXTS_SCHEMA), _to_frame(spark, rejected, REJECTED_SCHEMA), tuple(warnings)
    )


def _find_fault(row: BenchmarkRow, task: Task) -> str | None:
    if not row.text.strip():
        return EMPTY_TEXT
    if row.label is None:
        return NO_LABEL
    if row.label not in task.labels:
        raise DataError(
            f"{row.source}: row {row.row} has the label {row.label!r}; the labels of task {task.name} are "
            f"{', '.join(task.labels)}; mend the row or the task's labels"
        )
    return None


def _to_text(item: Chosen, row: BenchmarkRow) -> tuple[str | int | None, ...]:
    return (
        item.language.code,
        item.source_lang,
        item.split,
        row.text,
        row.label,
        row.parallel_id,
        row.source,
        row.row,
    )


def _to_frame(spark: SparkSession, rows: list[tuple[str | int | None, ...]], schema: str) -> DataFrame:
    fields = [part.split() for part in schema.split(", ")]
    types = {"string": pa.string(), "long": pa.int64()}
    arrow_schema = pa.schema([pa.field(name, types[kind]) for name, kind in fields])
    columns = zip(*rows, strict=True) if rows else [()] * len(fields)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, arrow_schema, strict=True)]
    return spark.createDataFrame(pa.Table.from_arrays(arrays, schema=arrow_schema))
