"""Label a corpus with a registered model.

Inserts into labels; replaces the corpus's rows of labels_rejected.
"""

from xampler.pipeline.context import Engines
from xampler.pipeline.entry import run_engine_job
from xampler.pipeline.label import LabelConfig, label_corpus


def main(engines: Engines, config: LabelConfig) -> None:
    """Label a corpus with a registered model."""
    label_corpus(engines, config)


if __name__ == "__main__":
    run_engine_job(main, LabelConfig)
