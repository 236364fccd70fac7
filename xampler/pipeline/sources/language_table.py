"""The languages table that ships with the package."""

import io
from functools import cache
from importlib.resources import files

from xampler.core.language import Languages
from xampler.pipeline.sources.delimited import decode, read_records

TABLE = "conf/languages.tsv"


@cache
def load_languages() -> Languages:
    """Read ``conf/languages.tsv``.

    Raises:
        LanguageCodeError: its codes or aliases contradict each other.
    """
    content = (files("xampler") / "conf" / "languages.tsv").read_bytes()
    stream = io.StringIO(decode(TABLE, content), newline="")
    header, *rows = [record.fields for record in read_records(TABLE, stream, "\t")]
    return Languages.parse_rows(dict(zip(header, row, strict=True)) for row in rows)
