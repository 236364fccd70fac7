"""Register the trained retriever; promote it if it beats the champion.

Reads predictions; writes the registry.
"""

from xampler.pipeline.context import Context
from xampler.pipeline.entry import run_job
from xampler.pipeline.plan import run_stages


def main(context: Context) -> None:
    """Register the trained retriever; promote it if it beats the champion."""
    run_stages(context, ["promote"])


if __name__ == "__main__":
    run_job(main)
