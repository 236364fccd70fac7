"""A further round of an iterative recipe: the retriever so far proposes, and the new pairs are judged."""

from xampler.core.pairing import PROPOSED
from xampler.models.build import EncoderConfig
from xampler.pipeline.context import Context
from xampler.pipeline.mine import replace_training_pairs
from xampler.pipeline.pool import encoder_index_opener, read_pool
from xampler.pipeline.prompts import Scored, score_missing
from xampler.pipeline.propose import replace_pairs
from xampler.pipeline.score import one_shot_work
from xampler.tables.schema import SCORES


def round_name(recipe: str, number: int) -> str:
    """The proposer of the pairs that the recipe's round ``number``, from 2 on, adds."""
    return f"{recipe}/{number}"


def proposers_of(recipe: str, rounds: int) -> list[str]:
    """The proposers whose pairs the recipe's round ``rounds`` trains on: those of all rounds up to it."""
    return [PROPOSED, *(round_name(recipe, number) for number in range(2, rounds + 1))]


def propose_by_retriever(
    context: Context, recipe: str, number: int, encoder: EncoderConfig, run_id: str
) -> Scored:
    """Replace the round's pairs and training pairs; returns what judging the new ones came to.

    Pairs that any round or run has judged before cost nothing: the scores are keyed by the prompt.
    """
    proposer = round_name(recipe, number)
    pool = read_pool(context)
    replace_pairs(context, pool, encoder_index_opener(pool, encoder), proposer)
    scored = score_missing(context, SCORES, one_shot_work(context, proposer), run_id)
    replace_training_pairs(context, proposer)
    return scored
