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


def score_demonstrations(
    model_dir: str,
    queries: Sequence[str],
    demonstrations: Sequence[Sequence[tuple[str, str]]],
    labels: Sequence[str],
    *,
    template: str = 'The topic of the news "{text}" is {label}',
    separator: str = "\n",
    max_text_tokens: int | None = None,
    label_tokens: Literal["joint", "separate"] = "joint",
) -> "NDArray[np.float64]":
    """Log-likelihood [queries, labels], in nats, of each label's words after each query's prompt.

    What :func:`score_labels` gives for the finished prompts, without its having to find again what they have
    in common: a demonstration is tokenised once, however many queries it is shown to.

    Args:
        demonstrations: of each query its (text, label words), the last one next to the query. A prompt over
            the model's length loses the first ones, then the ends of its texts.
        template: of demonstrations and, without its label, of the query.
        separator: between demonstrations, and before the query.
        max_text_tokens: every text is cut to it; None: none is.

    Raises:
        ModelError, LabelWordError, DataError: as in :func:`score_labels`.
        ValueError: a template without ``{text}`` or not ending in `` {label}``, or labels that are not
            different; not one list of demonstrations per query.
    """
    from xampler.core.prompt import Demonstration, PromptConfig, fit_prompts
    from xampler.core.task import Task
    from xampler.models.build import LanguageModelConfig, load_language_model

    task = Task(name="prompts", labels=tuple(labels), template=template, separator=separator)
    limits = PromptConfig(max_text_tokens=max_text_tokens)
    model = load_language_model(LanguageModelConfig(model=model_dir, label_tokens=label_tokens))
    shown = [[Demonstration(*shot) for shot in shots] for shots in demonstrations]
    fitted = fit_prompts(task, queries, shown, model, limits)
    return model.score_pieces([prompt.pieces for prompt in fitted], task.label_words)


def embed_texts(
    model_dir: str,
    texts: Sequence[str],
    *,
    layer: int | None = None,
    pooling: Literal["mean", "cls"] = "mean",
) -> "NDArray[np.float32]":
    """Vectors [texts, dimensions] in input order; the model is kept by ``model_dir``.

    Texts over 256 tokens, or the fewer that model or folder allow, are cut. Lower-casing, and what the folder
    puts after pooling (a dense layer, normalising), are kept.

    Args:
        layer: 0 for the embeddings, 1 for the first layer; None for what the model's folder says: its learned
            weights of all layers if it has them, else the last.
        pooling: the mean unless you say otherwise, whatever the model's folder says. For a model that was
            trained on its first token (LaBSE, BGE) give ``cls``;
            ``load_encoder(EncoderConfig(model=...)).encode(texts)`` leaves the choice to the folder.

    Raises:
        ModelError: the model cannot be found, reached or loaded, or has no such layer.
    """
    from xampler.models.build import EncoderConfig, load_encoder

    return load_encoder(EncoderConfig(model=model_dir, layer=layer, pooling=pooling)).encode(texts)
