"""The rows that every reader returns."""

from dataclasses import dataclass

from pyspark.sql import DataFrame

from xampler.core.language import CODE_PATTERN

TEXTS_SCHEMA = (
    "lang string, source_lang string, split string, text string, label string, parallel_id string, "
    "source string, row long"
)
REJECTED_SCHEMA = "source string, row long, reason string, content string"
CONTENT_CHARACTERS = 2_000  # of a rejected row that are kept

EMPTY_TEXT = "the text is empty"
NO_LABEL = "no label"
UNKNOWN_LABEL = "the label is none of the task's"
MALFORMED_LANG = f"the language code does not match {CODE_PATTERN}"
UNKNOWN_SPLIT = "the split is none of train, dev and test"
BROKEN_UTF8 = "the row is not valid UTF-8"
BROKEN_JSON = "the line is not a JSON object"


@dataclass(frozen=True)
class TextsRead:
    """What a source holds of a selection.

    Attributes:
        texts: TEXTS_SCHEMA; ``row`` counts the records of ``source`` after its header from 1. ``label`` is
            null only in own data, in other splits than train.
        rejected: REJECTED_SCHEMA, the rows that cannot be used.
        warnings: one sentence each, already logged.
    """

    texts: DataFrame
    rejected: DataFrame
    warnings: tuple[str, ...] = ()
