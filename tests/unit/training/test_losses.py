import math
from typing import cast

import pytest
import torch
from sentence_transformers import SentenceTransformer

from xampler.config import parse_config
from xampler.training.losses import build_loss
from xampler.training.losses.distill import DistillLoss
from xampler.training.recipe import ContrastiveRecipe, DistillRecipe, InfoNceRecipe

B, N, D = 3, 4, 5
NO_MODEL = cast(SentenceTransformer, torch.nn.Identity())
SCHEDULE = {"learning_rate": 1e-3, "batch_size": 4, "steps": 1, "evaluate_every": 1}
Columns = list[torch.Tensor]


def columns(count: int) -> Columns:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, D, generator=generator) for _ in range(count)]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)) / (a.norm() * b.norm()))


def slow_infonce(embeddings: Columns, temperature: float) -> float:
    """-log of the positive's share among the positives and negatives of all rows, one by one."""
    query, positive = embeddings[:2]
    losses = []
    for row in range(B):
        own = math.exp(cosine(query[row], positive[row]) / temperature)
        everything = sum(
            math.exp(cosine(query[row], column[other]) / temperature)
            for column in embeddings[1:]
            for other in range(B)
        )
        losses.append(-math.log(own / everything))
    return sum(losses) / B


def slow_divergence(
    embeddings: Columns, labels: torch.Tensor, temperature: float, teacher_temperature: float
) -> float:
    total = 0.0
    for row in range(B):
        student = [
            math.exp(cosine(embeddings[0][row], column[row]) / temperature) for column in embeddings[1:]
        ]
        teacher = [math.exp(value / teacher_temperature) for value in labels[row].tolist()]
        for p, q in zip(teacher, student, strict=True):
            if p > 0:
                total += p / sum(teacher) * math.log((p / sum(teacher)) / (q / sum(student)))
    return total / B


def test_distill_is_divergence_plus_infonce() -> None:
    embeddings = columns(1 + N)
    labels = torch.tensor(
        [[-0.1, -math.inf, -2.0, -0.7], [-0.3, -math.inf, -math.inf, -0.3], [-1.0, -4.0, -2.0, -3.0]]
    )
    for weight in (0.0, 0.2):
        loss = DistillLoss(
            NO_MODEL,
            temperature=0.3,
            teacher_temperature=2.0,
            infonce_weight=weight,
            gather_across_devices=False,
        )
        expected = slow_divergence(embeddings, labels, 0.3, 2.0) + weight * slow_infonce(embeddings[:3], 0.3)
        assert float(loss.compute_loss_from_embeddings(embeddings, labels)) == pytest.approx(expected, 1e-5)


def test_a_candidate_with_another_label_is_pushed_away_whatever_was_guessed() -> None:
    embeddings = [column.requires_grad_() for column in columns(1 + N)]
    loss = DistillLoss(
        NO_MODEL, temperature=0.5, teacher_temperature=1.0, infonce_weight=0.0, gather_across_devices=False
    )
    labels = torch.tensor([[-0.5, -math.inf, -0.1, -0.9]] * B)
    loss.compute_loss_from_embeddings(embeddings, labels).backward()
    other = embeddings[2]
    assert other.grad is not None
    moved = (other - 0.1 * other.grad).detach()
    for row in range(B):
        query = embeddings[0][row].detach()
        assert cosine(query, moved[row]) < cosine(query, other[row].detach())


@pytest.mark.parametrize("negatives", [0, 1, 2])
def test_infonce_is_the_library_s_with_any_number_of_negatives(negatives: int) -> None:
    values = SCHEDULE | {"loss": "infonce", "temperature": 0.2, "hard_negatives": negatives}
    loss = build_loss(NO_MODEL, parse_config(InfoNceRecipe, values, "test"), ranks=1)
    embeddings = columns(2 + negatives)
    found = loss.compute_loss_from_embeddings(embeddings, torch.empty(0))  # type: ignore[operator]
    assert float(found) == pytest.approx(slow_infonce(embeddings, 0.2), 1e-5)


def test_contrastive_is_the_paper_s() -> None:
    recipe = parse_config(ContrastiveRecipe, SCHEDULE | {"loss": "contrastive", "margin": 0.9}, "test")
    loss = build_loss(NO_MODEL, recipe, ranks=1)
    first, second = columns(2)
    labels = [1, 0, 0]
    expected = 0.0
    for row, label in enumerate(labels):
        d = 1 - cosine(first[row], second[row])
        expected += 0.5 * (label * d**2 + (1 - label) * max(0.0, 0.9 - d) ** 2) / B
    found = loss.compute_loss_from_embeddings([first, second], torch.tensor(labels))  # type: ignore[operator]
    assert float(found) == pytest.approx(expected, 1e-5)


def test_losses_over_several_ranks_gather() -> None:
    values = SCHEDULE | {"loss": "distill"}
    loss = build_loss(NO_MODEL, parse_config(DistillRecipe, values, "test"), ranks=2)
    assert isinstance(loss, DistillLoss)
    assert loss.infonce.gather_across_devices
