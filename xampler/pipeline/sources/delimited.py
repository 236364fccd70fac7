"""Tab- and comma-separated files, read strictly.

Every fault of a file is a :class:`DataError` that names the file and the line.
"""

import csv
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TextIO

from xampler.errors import DataError

# Characters. csv's own limit of 131,072 is shorter than some documents; without any, a quote that is never
# closed would fill the memory with the rest of the file.
FIELD_LIMIT = 2**24
QUOTING = 'quote fields with " and double the quotes inside them (Excel style), or export the file anew'


class Record(NamedTuple):
    """One record, the header included."""

    line: int  # where it begins, from 1
    fields: list[str]


def read_records(name: str, stream: TextIO, delimiter: str) -> Iterator[Record]:
    """Records in order, blank lines left out; ``stream`` must have been opened with ``newline=""``.

    Raises:
        DataError: the quoting is broken.
    """
    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{name}: broken quoting in the record at line {line} ({error}); {QUOTING}"
            ) from None
        if fields:
            yield Record(line, fields)


def decode(name: str, content: bytes) -> str:
    """Text of a UTF-8 file, with or without a byte order mark.

    Raises:
        DataError: a byte is not valid UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}: line {line} is not valid UTF-8 (byte 0x{content[error.start]:02x}); "
            "save the file as UTF-8"
        ) from None


def find_columns(name: str, header: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Position of each wanted column.

    Raises:
        DataError: one is missing.
    """
    missing = [column for column in wanted if column not in header]
    if missing:
        raise DataError(
            f"{name}: no column {', '.join(map(repr, missing))}; the first line names "
            f"{', '.join(map(repr, header[:20]))}; name the columns in the first line"
        )
    return [header.index(column) for column in wanted]
