"""Training few or none of the vocabulary's rows: most of a multilingual encoder's parameters.

Shapes: V rows of the vocabulary, S rows that are trained, H hidden size, T tokens.
"""

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from xampler.errors import ModelError
from xampler.training.recipe import RecipeConfig

TEXTS_A_BATCH = 1000


class SeenRowsEmbedding(nn.Embedding):
    """An embedding of which only some rows are trained: gradients and optimiser have S rows, not V.

    Its state is that of ``nn.Embedding``, so that what is saved is a plain encoder.
    """

    place_V: torch.Tensor  # of a row among those that are trained, -1 if it is not
    seen_S: torch.Tensor

    def __init__(self, whole: nn.Embedding, seen_S: torch.Tensor) -> None:
        super().__init__(
            whole.num_embeddings,
            whole.embedding_dim,
            padding_idx=whole.padding_idx,
            _weight=whole.weight.data,
        )
        self.weight.requires_grad_(False)
        self.seen_SH = nn.Parameter(self.weight.data[seen_S].clone())
        place_V = torch.full((whole.num_embeddings,), -1, dtype=torch.long, device=seen_S.device)
        place_V[seen_S] = torch.arange(len(seen_S), device=seen_S.device)
        self.register_buffer("place_V", place_V, persistent=False)
        self.register_buffer("seen_S", seen_S, persistent=False)
        self.register_state_dict_post_hook(_merge)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_split)  # type: ignore[no-untyped-call]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Rows [..., H] of the token ids."""
        place = self.place_V[input]
        frozen = super().forward(input)
        trained = nn.functional.embedding(place.clamp(min=0), self.seen_SH).to(frozen.dtype)
        return torch.where((place >= 0).unsqueeze(-1), trained, frozen)


def _merge(module: SeenRowsEmbedding, state: dict[str, torch.Tensor], prefix: str, _: object) -> None:
    seen_SH = state.pop(f"{prefix}seen_SH")
    weight_VH = state[f"{prefix}weight"].clone()
    weight_VH[module.seen_S] = seen_SH.to(weight_VH.dtype)
    state[f"{prefix}weight"] = weight_VH


def _split(module: SeenRowsEmbedding, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    weight_VH = state.get(f"{prefix}weight")
    if weight_VH is not None:
        state[f"{prefix}seen_SH"] = weight_VH[module.seen_S.to(weight_VH.device)]


def choose_trained_rows(model: SentenceTransformer, recipe: RecipeConfig, texts: Iterable[str]) -> int:
    """Leave the rows of the vocabulary as they are that the recipe does not train; returns those it does.

    Raises:
        ModelError: the encoder's embedding is not a plain one.
    """
    transformer: Any = model[0]
    whole = transformer.auto_model.get_input_embeddings()
    if recipe.train_embeddings == "all":
        return int(whole.num_embeddings)
    if recipe.train_embeddings == "none":
        whole.requires_grad_(False)
        return 0
    if type(whole) is not nn.Embedding:
        raise ModelError(
            f"train_embeddings: seen needs a plain embedding, but the encoder has {type(whole).__name__}; "
            "use all or none"
        )
    seen_S = seen_tokens(model, texts).to(whole.weight.device)
    transformer.auto_model.set_input_embeddings(SeenRowsEmbedding(whole, seen_S))
    return len(seen_S)


def seen_tokens(model: SentenceTransformer, texts: Iterable[str]) -> torch.Tensor:
    """Ids [S] of the tokens that occur in the texts, in order; the texts may be a stream."""
    seen: set[int] = set()
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == TEXTS_A_BATCH:
            seen |= _tokens_of(model, batch)
            batch = []
    if batch:
        seen |= _tokens_of(model, batch)
    return torch.tensor(sorted(seen))


def _tokens_of(model: SentenceTransformer, texts: list[str]) -> set[int]:
    prompt = model.prompts.get(model.default_prompt_name or "") or ""
    ids_BT = model.preprocess([prompt + text for text in texts])["input_ids"]
    return set(ids_BT.unique().tolist())
