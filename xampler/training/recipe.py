"""What a training run is made of: loss, schedule, batches."""

from typing import Annotated, Literal

from pydantic import Field

from xampler.config import Config
from xampler.models.build import EncoderConfig

RESULT_FILE = "training.json"  # beside the weights: written before the model is moved to its place


class RecipeConfig(Config):
    """Schedule and batches, common to all losses."""

    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=2, description="rows a step, over all ranks")
    steps: int = Field(ge=1)
    warmup_share: float = Field(default=0.1, ge=0, le=1)  # of the steps; then linear decay
    weight_decay: float = Field(default=0.01, ge=0)
    max_tokens: int = Field(default=256, ge=8)
    word_dropout: float = Field(default=0.0, ge=0, lt=1)  # share of words left out of each training text
    evaluate_every: int = Field(ge=1)  # steps
    train_embeddings: Literal["all", "none"] = "all"  # none: the rows of the vocabulary stay as they are
    # Share of the starting weights in the weights that are kept (WiSE-FT, arXiv 2109.01903): training on
    # English alone pulls languages apart, and this takes part of that back.
    start_share: float = Field(default=0.0, ge=0, lt=1)
    zero_stage: Literal[0, 1, 2] = 2
    seed: int = 0


class ContrastiveRecipe(RecipeConfig):
    """The paper's pairwise loss: 0.5 * (y d^2 + (1 - y) max(0, margin - d)^2), d the cosine distance."""

    loss: Literal["contrastive"]
    margin: float = Field(default=0.5, gt=0)


class InfoNceRecipe(RecipeConfig):
    """In-batch InfoNCE with one positive and one hard negative a query."""

    loss: Literal["infonce"]
    temperature: float = Field(default=0.025, gt=0)


Recipe = Annotated[ContrastiveRecipe | InfoNceRecipe, Field(discriminator="loss")]


class TrainingSpec(Config):
    """One training run, as the ranks read it from a file."""

    encoder: EncoderConfig
    recipe: Recipe
    shards: str  # folder of Parquet files in the layout of dataset.py
    output: str  # folder that gets the trained model
    ranks: int = Field(ge=1)
