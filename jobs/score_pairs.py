"""Score every pair with the language model. Reads pairs and candidates; inserts into scores."""

from xampler.pipeline.context import Context
from xampler.pipeline.entry import run_job
from xampler.pipeline.plan import run_stages


def main(context: Context) -> None:
    """Score every pair with the language model. Reads pairs and candidates; inserts into scores."""
    run_stages(context, ["score"])


if __name__ == "__main__":
    run_job(main)
