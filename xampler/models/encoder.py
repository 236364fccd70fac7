"""A transformer as sentence encoder.

Shapes: N texts, B texts of a batch, T tokens, H hidden size, D dimensions.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from xampler.errors import ModelError
from xampler.models.build import LayerChoice
from xampler.models.memory import TokenBudget
from xampler.models.pooling import PoolingMode, SentenceLayout, pool

_TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 65536}

# Their layers end with their own normalisation, so that leaving off the last ones gives a layer's states.
_SLICEABLE = ("bert", "roberta", "xlm-roberta")


class TransformerEncoder:
    """Encodes texts as ``SentenceTransformer.encode`` does, in batches of like length."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        layout: SentenceLayout,
        *,
        pooling: PoolingMode | None = None,
        layer: LayerChoice | None = None,
        max_tokens: int = 256,
        prefix: str = "",
        tokens_per_batch: int | None = None,
    ) -> None:
        """``pooling`` and ``layer`` None: the layout's; 0: the embeddings, 1: the first layer.

        Raises:
            ModelError: the model has no such layer.
        """
        layers = int(model.config.num_hidden_layers)
        if isinstance(layer, int) and not 0 <= layer <= layers:
            raise ModelError(
                f"layer {layer}: the encoder {str(model.name_or_path)!r} has {layers} layers; give 0 (its "
                f"embeddings) to {layers} (the last), or leave it out"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.after = layout.after.to(model.device).eval()
        self.pooling = pooling or layout.pooling
        self.layer = layer if isinstance(layer, int) else None
        self.layer_weights = layout.layer_weights if layer is None else None
        if layer == "weighted":  # where no weights were learned, all layers weigh the same
            equal = torch.tensor([0.0] + [1 / layers] * layers)
            self.layer_weights = equal if layout.layer_weights is None else layout.layer_weights
        self.lower_case = layout.lower_case
        self.prefix = prefix
        self.max_tokens = min(max_tokens, layout.max_tokens or sys.maxsize, _positions(model, tokenizer))
        tokens = tokens_per_batch or _TOKENS_PER_BATCH.get(model.device.type, 2048)
        devices = {parameter.device for parameter in model.parameters()}
        self._budget = TokenBudget(tokens, devices, fixed=tokens_per_batch is not None)
        if self.layer is not None and model.config.model_type in _SLICEABLE:
            stack: Any = model.encoder
            stack.layer = stack.layer[: self.layer]
            self.layer = None

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [N, D] of the texts, rows in input order; equal texts are computed once.

        Texts over ``max_tokens`` tokens are cut.
        """
        unique = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        ids = self._tokenize(list(unique) or [""])
        batches = list(self._batches(ids))
        vectors_ND = np.concatenate([vectors_BD for _, vectors_BD in batches])
        place = np.argsort([number for numbers, _ in batches for number in numbers])
        return vectors_ND[place[[unique[text] for text in texts]]] if texts else vectors_ND[:0]

    def _batches(self, ids: list[list[int]]) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Numbers of texts and their vectors [B, D], longest first, until all are done."""
        pending = sorted(range(len(ids)), key=lambda number: len(ids[number]), reverse=True)
        while pending:
            width = len(ids[pending[0]])
            numbers = pending[: max(1, self._budget.tokens // max(1, width))]
            with self._budget.attempt(width * len(numbers), len(numbers)):
                yield numbers, self._encode_batch([ids[number] for number in numbers])
                pending = pending[len(numbers) :]

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        texts = [self.prefix + (text.lower() if self.lower_case else text) for text in texts]
        encoded = self.tokenizer(
            texts, truncation=True, max_length=self.max_tokens, return_attention_mask=False
        )
        return list(encoded["input_ids"])

    @torch.inference_mode()
    def _encode_batch(self, ids: list[list[int]]) -> NDArray[np.float32]:
        width = max(map(len, ids))
        padding = self.tokenizer.pad_token_id or 0
        tokens_BT = torch.tensor([[*row, *[padding] * (width - len(row))] for row in ids])
        mask_BT = torch.arange(width) < torch.tensor([len(row) for row in ids])[:, None]
        tokens_BT, mask_BT = tokens_BT.to(self.model.device), mask_BT.to(self.model.device)
        output = self.model(
            input_ids=tokens_BT,
            attention_mask=mask_BT.long(),
            output_hidden_states=self.layer is not None or self.layer_weights is not None,
        )
        vectors_BD = self.after(pool(self._states(output), mask_BT, self.pooling))
        vectors: NDArray[np.float32] = vectors_BD.float().cpu().numpy()
        return vectors

    def _states(self, output: BaseModelOutput) -> torch.Tensor:
        """States [B, T, H] of the chosen layer, or of all by their weights."""
        every = output.hidden_states or ()
        if self.layer_weights is not None:
            weighted = zip(self.layer_weights.tolist(), every, strict=True)
            return torch.stack([weight * states_BTH for weight, states_BTH in weighted]).sum(dim=0)
        return torch.as_tensor(output.last_hidden_state if self.layer is None else every[self.layer])


def _positions(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest text, special tokens included, that model and tokenizer take."""
    positions = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
    if model.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= model.config.pad_token_id + 1  # positions are counted from behind the padding's
    return int(min(positions, tokenizer.model_max_length))
