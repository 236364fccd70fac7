"""Propose candidates for each training query. Reads candidates; replaces its rows of pairs."""

from xampler.pipeline.context import Context
from xampler.pipeline.entry import run_job
from xampler.pipeline.plan import run_stages


def main(context: Context) -> None:
    """Propose candidates for each training query. Reads candidates; replaces its rows of pairs."""
    run_stages(context, ["propose"])


if __name__ == "__main__":
    run_job(main)
