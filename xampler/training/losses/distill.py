"""Listwise distillation with InfoNCE (LLM-R, arXiv 2307.07164; graded rewards: LLM-Embedder, 2310.07554).

Shapes: B queries of a batch, N candidates of a query, D dimensions.
"""

from collections.abc import Iterable

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import pairwise_cos_sim
from torch import nn


class DistillLoss(nn.Module):
    """Mean over the queries of ``KL(p || q) + infonce_weight * InfoNCE``.

    Inputs: columns (query, positive, negative, candidate_3, ..., candidate_N).

    Labels: [B, N] nats, the scorer's log-probability of the query's gold label after each of the N
    candidates in the order of the columns; minus infinity where the candidate's label is not the query's.

    With c_i the cosine of query and candidate i and t the temperatures::

        p_i = softmax_i(label_i / teacher_temperature)
        q_i = softmax_i(c_i / temperature)
        KL(p || q) = sum_i p_i (log p_i - log q_i),    0 log 0 = 0
        InfoNCE = -log(exp(c_positive / temperature) / sum_j exp(c_j / temperature))

    where j runs over the positives and the negatives of all queries in the batch, of all ranks.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        temperature: float,
        teacher_temperature: float,
        infonce_weight: float,
        gather_across_devices: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.infonce_weight = infonce_weight
        self.distill = DistillKLDivLoss(
            model,
            similarity_fct=pairwise_cos_sim,
            student_temperature=temperature,
            teacher_temperature=teacher_temperature,
        )
        self.infonce = MultipleNegativesRankingLoss(
            model, scale=1 / temperature, gather_across_devices=gather_across_devices
        )

    def forward(
        self, sentence_features: Iterable[dict[str, torch.Tensor]], labels: torch.Tensor
    ) -> torch.Tensor:
        """The loss, a scalar."""
        embeddings: list[torch.Tensor] = embed_columns(self.model, sentence_features)
        return self.compute_loss_from_embeddings(embeddings, labels)

    def compute_loss_from_embeddings(
        self, embeddings: list[torch.Tensor], labels: torch.Tensor
    ) -> torch.Tensor:
        """The loss of ``embeddings``, one [B, D] a column."""
        # The library multiplies by the squared temperature, which would let KL vanish beside InfoNCE.
        divergence: torch.Tensor = self.distill.compute_loss_from_embeddings(embeddings, labels)
        in_batch: torch.Tensor = self.infonce.compute_loss_from_embeddings(embeddings[:3], labels)
        return divergence / self.temperature**2 + self.infonce_weight * in_batch
