"""Read the experiment's texts. Replaces its rows of queries, candidates and queries_rejected."""

from xampler.pipeline.context import Context
from xampler.pipeline.entry import run_job
from xampler.pipeline.plan import run_stages


def main(context: Context) -> None:
    """Read the experiment's texts. Replaces its rows of queries, candidates and queries_rejected."""
    run_stages(context, ["ingest"])


if __name__ == "__main__":
    run_job(main)
