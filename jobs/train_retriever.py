"""Train a retriever by each recipe. Reads training_pairs; writes model folders and MLflow runs."""

from xampler.pipeline.context import Context
from xampler.pipeline.entry import run_job
from xampler.pipeline.plan import run_stages


def main(context: Context) -> None:
    """Train a retriever by each recipe. Reads training_pairs; writes model folders and MLflow runs."""
    run_stages(context, ["train"])


if __name__ == "__main__":
    run_job(main)
