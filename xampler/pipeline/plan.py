"""All stages of an experiment, in order."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from xampler.models.build import check_label_words, encoder_folder
from xampler.pipeline import STAGES
from xampler.pipeline.context import Context
from xampler.pipeline.evaluate import evaluate_part
from xampler.pipeline.experiment import EncoderMethod
from xampler.pipeline.ingest import ingest_part
from xampler.pipeline.mine import mine_part
from xampler.pipeline.predict import predict_part
from xampler.pipeline.promote import promote_part
from xampler.pipeline.propose import propose_part
from xampler.pipeline.retrieve import retrieve_parts
from xampler.pipeline.score import score_part
from xampler.pipeline.stage import Done, Part, find_done, run_part
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


def check_models(context: Context) -> None:
    """Find every model and tokenise the label words before anything is written.

    Raises:
        ModelError: a model cannot be found or reached.
        LabelWordError: label words that tokenise to nothing.
    """
    experiment = context.experiment
    check_label_words(experiment.language_model, context.task.label_words)
    shown = [method.encoder for method in experiment.methods.values() if isinstance(method, EncoderMethod)]
    proposers = [experiment.propose.by.encoder] if isinstance(experiment.propose.by, EncoderMethod) else []
    for encoder in {experiment.train.encoder, *shown, *proposers}:
        encoder_folder(encoder)


def run_stages(context: Context, stages: Sequence[str] = STAGES) -> RunSummary:
    """Run what is not up to date, in order.

    Raises:
        XamplerError: as the stages say; a model is missing; a stage before the first one has not been run.
    """
    return run_parts(context, [part for stage in stages for part in parts_of(context, stage)])


def needed_for(part: Part) -> list[Part]:
    """The part and everything before it, each once, in order."""
    found: dict[str, Part] = {}
    for earlier in part.before:
        found |= {needed.key: needed for needed in needed_for(earlier) if needed.key not in found}
    return [*found.values(), part]


def run_parts(context: Context, parts: Sequence[Part]) -> RunSummary:
    """Run those that are not up to date, in order.

    Raises:
        XamplerError: as :func:`run_stages`.
    """
    done: list[Done] = []
    checked = False
    for part in parts:
        found = find_done(context, part)
        if found is not None:
            logger.info("%s: up to date", part.key)
        elif not checked:
            check_models(context)
            checked = True
        done.append(found or run_part(context, part))
    summary = RunSummary(tuple(done))
    if not summary.prompts_scored and not checked:
        logger.info("everything is up to date: no model work was done")
    return summary
