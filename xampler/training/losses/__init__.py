"""The loss of each recipe: the library's own where it has one.

In-batch negatives are gathered over the ranks with gradients, so that two ranks compute what one does.
"""

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import ContrastiveLoss, MultipleNegativesRankingLoss

from xampler.training.losses.distill import DistillLoss
from xampler.training.recipe import ContrastiveRecipe, DistillRecipe, InfoNceRecipe, Recipe


def build_loss(model: SentenceTransformer, recipe: Recipe, ranks: int) -> torch.nn.Module:
    """The loss over the recipe's rows, see ``dataset.py`` for their columns."""
    gather = ranks > 1
    match recipe:
        case ContrastiveRecipe():
            return ContrastiveLoss(model, margin=recipe.margin)
        case InfoNceRecipe():
            return MultipleNegativesRankingLoss(
                model, scale=1 / recipe.temperature, gather_across_devices=gather
            )
        case DistillRecipe():
            return DistillLoss(
                model,
                temperature=recipe.temperature,
                teacher_temperature=recipe.teacher_temperature,
                infonce_weight=recipe.infonce_weight,
                gather_across_devices=gather,
            )
