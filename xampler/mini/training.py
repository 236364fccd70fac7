"""Training of the mini language model to answer the prompts of :mod:`xampler.mini.prompt_data`.

Shape suffixes: F folds, V vocabulary, H hidden, P prompts, T tokens, N answer tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from xampler.mini.contrast import linear_schedule
from xampler.mini.prompt_data import Prompt, PromptSource, PromptTrainingConfig, prompt_batches
from xampler.mini.tokenizer import PAD_ID

logger = logging.getLogger(__name__)


def train_on_prompts(
    model: LlamaForCausalLM,
    tables_FVH: Sequence[Tensor],
    source: PromptSource,
    config: PromptTrainingConfig,
    seed: int,
) -> None:
    """Minimise the answers' negative log-likelihood; embeddings stay as they are.

    Args:
        tables_FVH: one embedding table per fold.
    """
    model.get_input_embeddings().requires_grad_(requires_grad=False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0, betas=(0.9, 0.98))
    scheduler = linear_schedule(optimizer, config.warm_up, config.steps)
    model.train()
    losses: list[float] = []
    for step, (fold, prompts) in enumerate(prompt_batches(source, config, seed)):
        loss = answer_loss(model, tables_FVH[fold], prompts)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == config.steps:
            recent = float(np.mean(losses[-100:]))
            logger.info("language model: step %d of %d, loss %.3f", step + 1, config.steps, recent)
    model.requires_grad_(requires_grad=True)
    model.eval()


def answer_loss(model: LlamaForCausalLM, table_VH: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """Mean over prompts of the answers' negative log-likelihood, in nats."""
    longest = max(len(prompt.ids) for prompt in prompts)
    ids_PT = torch.full((len(prompts), longest), PAD_ID)
    for number, prompt in enumerate(prompts):
        ids_PT[number, : len(prompt.ids)] = torch.tensor(prompt.ids)
    # Padding stands behind all that is read, so a causal model needs no mask.
    embedded_PTH = torch.nn.functional.embedding(ids_PT, table_VH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden_PTH = model.model(inputs_embeds=embedded_PTH).last_hidden_state
    answers = [(row, back) for row, prompt in enumerate(prompts) for back in range(prompt.answer, 0, -1)]
    rows_N = torch.tensor([row for row, _ in answers])
    at_N = torch.tensor([len(prompts[row].ids) - back for row, back in answers])
    logits_NV = hidden_PTH[rows_N, at_N - 1].float() @ table_VH.T
    return torch.nn.functional.cross_entropy(logits_NV, ids_PT[rows_N, at_N], reduction="sum") / len(prompts)
