"""Measure every method per language and group.

Reads predictions; replaces its rows of the metrics tables.
"""

from xampler.pipeline.context import Context
from xampler.pipeline.entry import run_job
from xampler.pipeline.plan import run_stages


def main(context: Context) -> None:
    """Measure every method per language and group."""
    run_stages(context, ["evaluate"])


if __name__ == "__main__":
    run_job(main)
