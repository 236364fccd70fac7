"""What a training run is made of: loss, schedule, batches, engine."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from xampler.config import Config
from xampler.models.build import EncoderConfig

RESULT_FILE = "training.json"  # beside the weights: written before the model is moved to its place

# The ZeRO stages from which on a rank holds only its part of the gradients, and of the weights.
SHARDED_GRADIENTS, SHARDED_WEIGHTS = 2, 3

# judgement: the language model's prediction was right (the paper's signal);
# label: the candidate has the query's label; both: it has, and the prediction was right.
PositivesBy = Literal["judgement", "label", "both"]
Metric = Literal["map", "ndcg", "recall_at_1", "recall_at_5", "recall_at_10", "margin", "parallel"]


class EngineConfig(Config):
    """How DeepSpeed runs the steps: what they cost, not what they compute."""

    zero_stage: Literal[0, 1, 2, 3] = 2  # what the ranks share: 1 optimiser, 2 and gradients, 3 and weights
    bf16: bool = False  # weights and activations in bfloat16, the optimiser's copy in float32
    # Micro-batches a step. In-batch negatives are those of the micro-batch, so this is not the same as
    # one large batch for the losses that have them.
    accumulation_steps: int = Field(default=1, ge=1)
    gradient_checkpointing: bool = False  # compute activations twice, keep few
    offload: Literal["none", "cpu"] = "none"  # where the optimiser lives; at stage 3 the weights too

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.offload == "cpu" and self.zero_stage < SHARDED_GRADIENTS:
            raise ValueError("offload: cpu needs zero_stage 2 or 3; set one of them, or leave offload out")
        return self


class RecipeConfig(Config):
    """Signal, schedule and batches, common to all losses."""

    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=2, description="rows a step, over all ranks and micro-batches")
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)  # in place of steps
    warmup_share: float = Field(default=0.1, ge=0, le=1)  # of the steps; then linear decay
    warmup_steps: int | None = Field(default=None, ge=0)  # in place of the share
    weight_decay: float = Field(default=0.01, ge=0)
    # Of a text in training; the retriever itself takes the encoder's max_tokens, which bounds this one.
    max_tokens: int = Field(default=256, ge=8)
    # Share of words left out of each training text. A word stands between blanks: Chinese, Japanese, Thai
    # and other scripts without them lose none.
    word_dropout: float = Field(default=0.0, ge=0, lt=1)
    positives_by: PositivesBy = "judgement"
    # After each round the new retriever proposes candidates, which are judged and trained on as well.
    rounds: int = Field(default=1, ge=1)
    evaluate_every: int = Field(ge=1)  # steps; checkpoints are written as often
    metric: Metric = "map"  # of the held-out queries: the best checkpoint by it is kept
    patience: int | None = Field(default=None, ge=1)  # evaluations without a better one before stopping
    # seen: rows of the vocabulary that occur in the training texts; none: no row.
    train_embeddings: Literal["all", "seen", "none"] = "all"
    # Share of the starting weights in the weights that are kept (WiSE-FT, arXiv 2109.01903): training on
    # English alone pulls languages apart, and this takes part of that back.
    start_share: float = Field(default=0.0, ge=0, lt=1)
    shuffle_buffer: int = Field(default=10_000, ge=1)  # queries in memory while the shards are streamed
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self


class ContrastiveRecipe(RecipeConfig):
    """The paper's pairwise loss: 0.5 * (y d^2 + (1 - y) max(0, margin - d)^2), d the cosine distance."""

    loss: Literal["contrastive"]
    margin: float = Field(default=0.5, gt=0)


class InfoNceRecipe(RecipeConfig):
    """In-batch InfoNCE with one positive and some hard negatives a query."""

    loss: Literal["infonce"]
    temperature: float = Field(default=0.025, gt=0)
    hard_negatives: int = Field(default=1, ge=0)  # a row


class DistillRecipe(RecipeConfig):
    """Listwise KL from the scorer's gold-label log-probabilities, plus in-batch InfoNCE."""

    loss: Literal["distill"]
    # Not by judgement alone: a positive with another label has no share of the distribution.
    positives_by: Literal["label", "both"] = "both"
    candidates: int = Field(default=8, ge=2)  # in a query's list: a positive, a negative and others
    temperature: float = Field(default=0.025, gt=0)  # of the cosines
    teacher_temperature: float = Field(default=1.0, gt=0)  # of the log-probabilities
    infonce_weight: float = Field(default=0.2, ge=0)  # lambda of LLM-R


Recipe = Annotated[ContrastiveRecipe | InfoNceRecipe | DistillRecipe, Field(discriminator="loss")]


class TrainingSpec(Config):
    """One training run, as the ranks read it from a file."""

    encoder: EncoderConfig
    recipe: Recipe
    engine: EngineConfig = EngineConfig()
    shards: str  # folder of Parquet files in the layout of shards.py
    parallel: str | None = None  # folder of Parquet files (lang, parallel_id, text); None: there are none
    pool_lang: str = "eng_Latn"  # of the parallel texts: the one that the others look for
    output: str  # folder that gets the trained model
    ranks: int = Field(ge=1)


def work_folder(output: Path) -> Path:
    """Where checkpoints are while the model of ``output`` is trained."""
    return output.with_name(output.name + ".work")
