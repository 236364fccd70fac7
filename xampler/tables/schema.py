"""The only list of columns: name, type, comment with unit, key and checks of every table.

Spark schemas, Delta constraints, the rows of the tests and ``docs/tables.md`` are
derived from here.
"""

from dataclasses import dataclass

from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    DataType,
    DoubleType,
    IntegerType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

STRING, INT, LONG, DOUBLE, TIME = StringType(), IntegerType(), LongType(), DoubleType(), TimestampType()
BOOLEAN = BooleanType()
STRINGS = ArrayType(STRING, containsNull=False)
DOUBLES = ArrayType(DOUBLE, containsNull=False)
PROBABILITIES = MapType(STRING, DOUBLE, valueContainsNull=False)


@dataclass(frozen=True)
class Column:
    """One column; ``nullable`` is False unless said."""

    name: str
    type: DataType
    comment: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """A table: its columns, the key that is unique in it, and what must hold for every row."""

    name: str
    comment: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    checks: tuple[str, ...] = ()  # SQL expressions
    cluster_by: tuple[str, ...] = ()  # liquid clustering: 500 languages must not mean 500 small files

    @property
    def column_names(self) -> list[str]:
        """Names in order."""
        return [column.name for column in self.columns]

    def spark_schema(self) -> StructType:
        """The Spark schema, comments as metadata."""
        return StructType(
            [StructField(c.name, c.type, c.nullable, {"comment": c.comment}) for c in self.columns]
        )


EXPERIMENT = Column("experiment", STRING, "name of the experiment that owns the row")
QUERY_ID = Column("query_id", STRING, "content hash of task, lang and NFC text")
CANDIDATE_ID = Column("candidate_id", STRING, "content hash of task, lang and NFC text")
LANG = Column("lang", STRING, "ISO 639-3, underscore, ISO 15924 script")
SOURCE_LANG = Column("source_lang", STRING, "the code as the data set writes it")
SPLIT = Column("split", STRING, "train, dev or test")
RUN_ID = Column("run_id", STRING, "MLflow run that wrote the row")
SCORER_ID = Column("scorer_id", STRING, "hash of language model, revision, adapter, dtype, tokenisation")
PROMPT_ID = Column("prompt_id", STRING, "hash of template, label words and length limits")
PROPOSER = Column("proposer", STRING, "propose, or recipe/round: the retriever of the round before")
METHOD = Column("method", STRING, "entry under `methods` in the experiment's config")
_LIKELIHOOD_COLUMNS = (
    Column("log_likelihoods", DOUBLES, "nats, one per label in the order of the task's labels"),
    Column("demonstrations_dropped", INT, "demonstrations left out because the prompt was too long"),
    Column("texts_shortened", INT, "texts cut because the prompt was too long"),
    RUN_ID,
)
_LIKELIHOOD_CHECKS = ("size(log_likelihoods) >= 2", "demonstrations_dropped >= 0", "texts_shortened >= 0")
_SPLIT_CHECK = "split IN ('train', 'dev', 'test')"

QUERIES = Table(
    "queries",
    "Every text to label: all languages, all splits.",
    (
        EXPERIMENT,
        QUERY_ID,
        LANG,
        SOURCE_LANG,
        SPLIT,
        Column("text", STRING, "as the source has it"),
        Column("label", STRING, "gold label, null where there is none", nullable=True),
        Column("parallel_id", STRING, "the same in every translation of a text", nullable=True),
        Column("source", STRING, "file that the text comes from"),
    ),
    key=("experiment", "query_id", "split"),
    checks=(_SPLIT_CHECK, "length(text) > 0"),
    cluster_by=("experiment", "lang"),
)
CANDIDATES = Table(
    "candidates",
    "The labelled pool that demonstrations are chosen from.",
    (
        EXPERIMENT,
        CANDIDATE_ID,
        LANG,
        SOURCE_LANG,
        Column("text", STRING, "as the source has it"),
        Column("label", STRING, "gold label"),
    ),
    key=("experiment", "candidate_id"),
    checks=("length(text) > 0",),
)
QUERIES_REJECTED = Table(
    "queries_rejected",
    "Rows of the source that are not in queries, each with its reason.",
    (
        EXPERIMENT,
        Column("source", STRING, "file that the row comes from"),
        Column("row", LONG, "row number in the file, the first after the header is 1"),
        Column("reason", STRING, "why it was rejected"),
        Column("content", STRING, "the row, as far as it could be read"),
    ),
    key=("experiment", "source", "row", "reason"),
)
PAIRS = Table(
    "pairs",
    "The candidates proposed for each training query.",
    (
        EXPERIMENT,
        PROPOSER,
        QUERY_ID,
        CANDIDATE_ID,
        Column("rank", INT, "0 is the most similar"),
        Column("similarity", DOUBLE, "cosine, or the BM25 score"),
    ),
    key=("experiment", "proposer", "query_id", "candidate_id"),
    checks=("rank >= 0", "query_id <> candidate_id"),
)
SCORES = Table(
    "scores",
    "The language model's judgement of each one-shot prompt; shared by all experiments.",
    (
        SCORER_ID,
        PROMPT_ID,
        QUERY_ID,
        CANDIDATE_ID,
        Column("candidate_label", STRING, "the label that was shown"),
        *_LIKELIHOOD_COLUMNS,
    ),
    key=("scorer_id", "prompt_id", "query_id", "candidate_id", "candidate_label"),
    checks=_LIKELIHOOD_CHECKS,
)
TRAINING_PAIRS = Table(
    "training_pairs",
    "Pairs with their role in training the retriever.",
    (
        EXPERIMENT,
        PROPOSER,
        QUERY_ID,
        CANDIDATE_ID,
        Column("rank", INT, "the proposer's rank, 0 is the most similar"),
        Column("role", STRING, "positive or negative, by the language model's judgement"),
        Column("same_label", BOOLEAN, "whether the candidate has the query's label"),
        Column("gold_log_prob", DOUBLE, "nats, the query's gold label after this demonstration"),
        Column("split", STRING, "train or held_out, by query"),
    ),
    key=("experiment", "proposer", "query_id", "candidate_id"),
    checks=(
        "role IN ('positive', 'negative')",
        "split IN ('train', 'held_out')",
        "gold_log_prob <= 0.000001",
    ),
)
DEMONSTRATIONS = Table(
    "demonstrations",
    "The demonstrations that each method chose for each query, least similar first.",
    (
        EXPERIMENT,
        METHOD,
        Column("seed", INT, "0 for methods that draw nothing"),
        QUERY_ID,
        SPLIT,
        LANG,
        Column("demonstration_ids", STRINGS, "candidate ids; the last one stands next to the query"),
        Column("similarities", DOUBLES, "the method's similarity of each demonstration"),
        Column("demonstrations_id", STRING, "hash of the ids and labels in order"),
    ),
    key=("experiment", "method", "seed", "query_id", "split"),
    checks=(_SPLIT_CHECK, "size(demonstration_ids) = size(similarities)"),
    cluster_by=("experiment", "method", "lang"),
)
PREDICTIONS = Table(
    "predictions",
    "Label log-likelihoods of each query after its demonstrations; shared by all experiments.",
    (
        SCORER_ID,
        PROMPT_ID,
        QUERY_ID,
        Column("demonstrations_id", STRING, "hash of the demonstrations' ids and labels in order"),
        *_LIKELIHOOD_COLUMNS,
    ),
    key=("scorer_id", "prompt_id", "query_id", "demonstrations_id"),
    checks=_LIKELIHOOD_CHECKS,
    cluster_by=("scorer_id", "prompt_id", "query_id"),
)
_ACCURACY_COLUMNS = (
    Column("queries", LONG, "number of queries behind the value"),
    Column("accuracy", DOUBLE, "share of right predictions, mean over seeds"),
    Column("accuracy_low", DOUBLE, "lower end of the 95% bootstrap interval"),
    Column("accuracy_high", DOUBLE, "upper end of the 95% bootstrap interval"),
    Column("accuracy_own_labels", DOUBLE, "accuracy among the labels that occur in the language"),
    Column("macro_f1", DOUBLE, "mean F1 over labels, mean over seeds"),
    Column("macro_f1_low", DOUBLE, "lower end of the 95% bootstrap interval"),
    Column("macro_f1_high", DOUBLE, "upper end of the 95% bootstrap interval"),
    RUN_ID,
)
_ACCURACY_CHECKS = (_SPLIT_CHECK, "accuracy BETWEEN 0 AND 1", "macro_f1 BETWEEN 0 AND 1", "queries > 0")
METRICS_BY_LANGUAGE = Table(
    "metrics_by_language",
    "How well each method labels each language.",
    (EXPERIMENT, SPLIT, METHOD, LANG, *_ACCURACY_COLUMNS),
    key=("experiment", "split", "method", "lang"),
    checks=_ACCURACY_CHECKS,
)
METRICS_BY_GROUP = Table(
    "metrics_by_group",
    "Means over groups of languages: all, family, script, coverage.",
    (
        EXPERIMENT,
        SPLIT,
        METHOD,
        Column("group_kind", STRING, "all, non_pool, worst_decile, family, script or coverage"),
        Column("group_name", STRING, "the family's, script's or coverage group's name"),
        Column("languages", LONG, "number of languages in the group"),
        *_ACCURACY_COLUMNS,
    ),
    key=("experiment", "split", "method", "group_kind", "group_name"),
    checks=_ACCURACY_CHECKS,
)
METHOD_DIFFERENCES = Table(
    "method_differences",
    "Paired differences in accuracy between methods, over all languages but the pool's.",
    (
        EXPERIMENT,
        SPLIT,
        METHOD,
        Column("base_method", STRING, "the method that it is compared with"),
        Column("languages", LONG, "number of languages"),
        Column("difference", DOUBLE, "mean accuracy of method less that of base_method"),
        Column("difference_low", DOUBLE, "lower end of the 95% interval, languages and items resampled"),
        Column("difference_high", DOUBLE, "upper end of the 95% interval, languages and items resampled"),
        Column("share_better", DOUBLE, "share of languages in which method is better"),
        RUN_ID,
    ),
    key=("experiment", "split", "method", "base_method"),
    checks=(_SPLIT_CHECK, "difference BETWEEN -1 AND 1", "share_better BETWEEN 0 AND 1"),
)
LABELS = Table(
    "labels",
    "Labels given to the texts of a corpus.",
    (
        Column("corpus", STRING, "name of the corpus"),
        Column("row_id", STRING, "the corpus's own id, or the content hash of language and text"),
        LANG,
        SOURCE_LANG,
        Column("text", STRING, "as the corpus has it"),
        Column("label", STRING, "the likeliest label"),
        Column("probabilities", PROBABILITIES, "share of each label, normalised over the labels"),
        Column("demonstration_ids", STRINGS, "candidate ids; the last one stood next to the query"),
        Column("model_name", STRING, "registered model"),
        Column("model_version", STRING, "version in the registry"),
        RUN_ID,
    ),
    key=("corpus", "model_name", "model_version", "row_id"),
    checks=("length(text) > 0",),
    cluster_by=("corpus", "lang"),
)
LABELS_REJECTED = Table(
    "labels_rejected",
    "Rows of a corpus that were not labelled, each with its reason.",
    (
        Column("corpus", STRING, "name of the corpus"),
        Column("source", STRING, "file that the row comes from"),
        Column("row", LONG, "row number in the file, the first after the header is 1"),
        Column("reason", STRING, "why it was rejected"),
        Column("content", STRING, "the row, as far as it could be read"),
    ),
    key=("corpus", "source", "row", "reason"),
)
STAGE_RUNS = Table(
    "stage_runs",
    "What happened to each stage, in order; its last row tells a rerun whether the stage is finished work.",
    (
        EXPERIMENT,
        Column("stage", STRING, "stage, or stage/part"),
        Column("state", STRING, "finished, or reopened: its rows are about to be replaced"),
        Column("fingerprint", STRING, "hash of config, inputs and models the stage depended on"),
        Column("result", STRING, "JSON of what later stages need to know"),
        Column("seconds", DOUBLE, "wall time; 0 where reopened"),
        RUN_ID,
        Column("at", TIME, "UTC"),
    ),
    key=("experiment", "stage", "run_id", "state"),
    checks=("state IN ('finished', 'reopened')", "seconds >= 0"),
)
TABLES = (
    QUERIES,
    CANDIDATES,
    QUERIES_REJECTED,
    PAIRS,
    SCORES,
    TRAINING_PAIRS,
    DEMONSTRATIONS,
    PREDICTIONS,
    METRICS_BY_LANGUAGE,
    METRICS_BY_GROUP,
    METHOD_DIFFERENCES,
    LABELS,
    LABELS_REJECTED,
    STAGE_RUNS,
)
