"""Label every query after its demonstrations. Reads demonstrations; inserts into predictions."""

from xampler.pipeline.context import Context
from xampler.pipeline.entry import run_job
from xampler.pipeline.plan import run_stages


def main(context: Context) -> None:
    """Label every query after its demonstrations. Reads demonstrations; inserts into predictions."""
    run_stages(context, ["predict"])


if __name__ == "__main__":
    run_job(main)
