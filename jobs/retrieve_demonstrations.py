"""Choose demonstrations by every method.

Reads queries and candidates; replaces its rows of demonstrations.
"""

from xampler.pipeline.context import Context
from xampler.pipeline.entry import run_job
from xampler.pipeline.plan import run_stages


def main(context: Context) -> None:
    """Choose demonstrations by every method."""
    run_stages(context, ["retrieve"])


if __name__ == "__main__":
    run_job(main)
