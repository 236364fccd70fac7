"""Language models and encoders: exact, batched, without Spark.

Importing this package costs nothing; torch and transformers are imported when a model is used.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def score_labels(
    model_dir: str,
    prompts: Sequence[str],
    labels: Sequence[str],
    *,
    label_tokens: Literal["joint", "separate"] = "joint",
) -> "NDArray[np.float64]":
    """Log-likelihood [prompts, labels], in nats, of each label's words after each prompt and one space.

    Exact: what one plain forward per prompt and label gives, in float32. Rows in input order; the model is
    kept by ``model_dir`` (a folder, a hub id, or ``mini``).

    Args:
        label_tokens: ``joint`` encodes prompt and label words together, ``separate`` by themselves.

    Raises:
        ModelError, LabelWordError, DataError: as in :class:`~xampler.models.causal_lm.CausalLanguageModel`.
    """
    from xampler.models.build import LanguageModelConfig, load_language_model

    config = LanguageModelConfig(model=model_dir, label_tokens=label_tokens)
    return load_language_model(config).score_labels(prompts, labels)


def embed_texts(
    model_dir: str,
    texts: Sequence[str],
    *,
    layer: int | None = None,
    pooling: Literal["mean", "cls"] = "mean",
) -> "NDArray[np.float32]":
    """Vectors [texts, dimensions] in input order; the model is kept by ``model_dir``.

    Args:
        layer: 0 for the embeddings, 1 for the first layer; None for the last.

    Raises:
        ModelError: the model cannot be found, reached or loaded.
    """
    from xampler.models.build import EncoderConfig, load_encoder

    return load_encoder(EncoderConfig(model=model_dir, layer=layer, pooling=pooling)).encode(texts)
