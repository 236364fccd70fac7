"""Log-probabilities of single tokens from hidden states, without the vocabulary at every position.

Shapes: R rows, V vocabulary, S steps, H hidden size.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from xampler.errors import ModelError
from xampler.models.cpu_linear import Linear, make_linears

# Columns of the vocabulary at a time: the logits of a few hundred rows then stay in a core's cache, and on
# any device a batch never holds more than rows x columns of them.
_COLUMNS = {"cpu": 2048}
_COLUMNS_ELSEWHERE = 16384


class OutputHead:
    """The output layer of a model, applied where it is needed."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        layer = model.get_output_embeddings()
        if type(layer) is not nn.Linear:
            raise ModelError(
                f"{type(model).__name__}: its output layer is no plain linear one; choose another scorer"
            )
        self.weight: torch.Tensor = layer.weight  # [V, H]
        self.bias: torch.Tensor | None = layer.bias
        self._blocks = self._make_blocks()
        # Gemma caps logits, Cohere multiplies and Granite divides them, all outside of the layer.
        self.cap = getattr(config, "final_logit_softcapping", None)
        self.scale = (getattr(config, "logit_scale", None) or 1.0) / (
            getattr(config, "logits_scaling", None) or 1.0
        )

    def _make_blocks(self) -> list[Linear]:
        """Logits of some columns of the vocabulary each."""
        columns = _COLUMNS.get(self.weight.device.type, _COLUMNS_ELSEWHERE)
        parts = [slice(first, first + columns) for first in range(0, len(self.weight), columns)]
        return make_linears(
            [(self.weight[part], None if self.bias is None else self.bias[part]) for part in parts]
        )

    def log_probs(
        self, hidden_RH: torch.Tensor, step_rows: Sequence[int], step_tokens: Sequence[int]
    ) -> torch.Tensor:
        """Log-probability [S], float64 on the CPU, of token ``step_tokens[s]`` at row ``step_rows[s]``.

        Normalised in float32 whatever the model's type.
        """
        hidden_RH = hidden_RH.to(self.weight.device)
        rows = torch.tensor(step_rows, device=hidden_RH.device)
        tokens = torch.tensor(step_tokens, device=hidden_RH.device)
        logits_S = (hidden_RH[rows].float() * self.weight[tokens].float()).sum(-1)
        if self.bias is not None:
            logits_S += self.bias[tokens]
        norms_R = self._norms(hidden_RH)
        return (self._finish(logits_S) - norms_R[rows]).double().cpu()

    def _norms(self, hidden_RH: torch.Tensor) -> torch.Tensor:
        """Log of the summed exponentials [R] of all logits of each row."""
        parts = []
        for block in self._blocks:
            logits_RC = self._finish(block(hidden_RH).float())
            # Torch's log_softmax is one fused pass, its logsumexp is four.
            parts.append(logits_RC[:, 0] - torch.log_softmax(logits_RC, dim=-1)[:, 0])
        return torch.logsumexp(torch.stack(parts), dim=0)

    def _finish(self, logits: torch.Tensor) -> torch.Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap
