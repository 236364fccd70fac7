"""The tables as a page of documentation: ``python -m xampler.tables.describe > docs/tables.md``."""

import sys

from xampler.tables.schema import TABLES, Table

HEAD = """\
# Tables

Made from `xampler/tables/schema.py` by `python -m xampler.tables.describe > docs/tables.md`; a test compares
the two.

Ids are content hashes, the same on every machine. `scores` and `predictions` belong to no experiment: a row
computed once is never computed again by any run with the same key. All other tables hold slices, each owned
by one experiment (or corpus) and replaced whole; `stage_runs` only grows. A column is never null unless said.
"""


def describe_tables() -> str:
    """All tables in Markdown."""
    return HEAD + "".join(_describe(table) for table in TABLES)


def _describe(table: Table) -> str:
    lines = [f"\n## {table.name}\n\n{table.comment}\n", f"Key: {_names(table.key)}."]
    if table.cluster_by:
        lines.append(f"Clustered by: {_names(table.cluster_by)}.")
    if table.checks:
        lines.append(f"Checks: {_names(table.checks)}.")
    lines.append("\n| column | type | meaning |\n|---|---|---|")
    for column in table.columns:
        meaning = column.comment + (" (may be null)" if column.nullable else "")
        lines.append(f"| `{column.name}` | {column.type.simpleString()} | {meaning} |")
    return "\n".join(lines) + "\n"


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    sys.stdout.write(describe_tables())
