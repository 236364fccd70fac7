"""All stages of an experiment, in order."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from xampler.pipeline import STAGES
from xampler.pipeline.context import Context
from xampler.pipeline.evaluate import evaluate_part
from xampler.pipeline.ingest import ingest_part
from xampler.pipeline.mine import mine_part
from xampler.pipeline.predict import predict_part
from xampler.pipeline.promote import promote_part
from xampler.pipeline.propose import propose_part
from xampler.pipeline.retrieve import retrieve_parts
from xampler.pipeline.score import score_part
from xampler.pipeline.stage import Done, Part, run_part
from xampler.pipeline.train import train_parts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSummary:
    """What a run of stages came to."""

    done: tuple[Done, ...]

    @property
    def prompts_scored(self) -> int:
        """Prompts that went through the language model in this run."""
        return sum(done.prompts_scored for done in self.done)

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of each stage in this run; 0 where it was up to date."""
        seconds: dict[str, float] = defaultdict(float)
        for done in self.done:
            seconds[done.key.partition("/")[0]] += done.seconds
        return dict(seconds)


def parts_of(context: Context, stage: str) -> list[Part]:
    """The parts of one stage, in order."""
    single = {
        "ingest": ingest_part,
        "propose": propose_part,
        "score": score_part,
        "mine": mine_part,
        "predict": predict_part,
        "evaluate": evaluate_part,
        "promote": promote_part,
    }
    if stage == "train":
        return train_parts(context)
    return retrieve_parts(context) if stage == "retrieve" else [single[stage](context)]


def run_stages(context: Context, stages: Sequence[str] = STAGES) -> RunSummary:
    """Run what is not up to date, in order.

    Raises:
        XamplerError: as the stages say; a stage before the first one has not been run.
    """
    done = [run_part(context, part) for stage in stages for part in parts_of(context, stage)]
    summary = RunSummary(tuple(done))
    if not summary.prompts_scored:
        logger.info("no prompt had to be scored: everything was there already")
    return summary
