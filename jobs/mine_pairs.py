"""Turn judgements into training pairs. Reads pairs and scores; replaces its rows of training_pairs."""

from xampler.pipeline.context import Context
from xampler.pipeline.entry import run_job
from xampler.pipeline.plan import run_stages


def main(context: Context) -> None:
    """Turn judgements into training pairs. Reads pairs and scores; replaces its rows of training_pairs."""
    run_stages(context, ["mine"])


if __name__ == "__main__":
    run_job(main)
