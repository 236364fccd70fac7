"""An experiment's config in plain words."""

from xampler.models.build import EncoderConfig, LanguageModelConfig
from xampler.pipeline.context import Context
from xampler.pipeline.experiment import (
    Bm25Method,
    EncoderMethod,
    ExperimentConfig,
    MajorityMethod,
    Method,
    RandomMethod,
    TrainedMethod,
    ZeroShotMethod,
)

LOSS_NAMES = {
    "infonce": "in-batch InfoNCE with a hard negative",
    "contrastive": "the pairwise contrastive loss",
    "distill": "its gold-label probabilities distilled, and in-batch InfoNCE",
}


def describe_method(experiment: ExperimentConfig, name: str) -> str:
    """One line on what the method does."""
    shown = f"{experiment.demonstrations} demonstrations"
    method: Method = experiment.methods[name]
    match method:
        case MajorityMethod():
            return "Always the pool's most frequent label; no language model."
        case ZeroShotMethod():
            return "The language model without demonstrations."
        case RandomMethod():
            return f"{shown} drawn at random for each text; mean over {len(method.seeds)} drawings."
        case Bm25Method():
            return f"{shown} that share the most telling words with the text (BM25)."
        case EncoderMethod():
            return f"The {shown} closest to the text by {_encoder_name(method.encoder)}, as it is."
        case TrainedMethod():
            loss = LOSS_NAMES[experiment.train.recipes[method.recipe].loss]
            encoder = _encoder_name(experiment.train.encoder)
            return (
                f"The {shown} closest to the text by the retriever: {encoder}, trained "
                f"on the language model's judgements with {loss} (recipe {method.recipe})."
            )


def describe_settings(context: Context) -> list[tuple[str, str]]:
    """What was run, as (name, value)."""
    experiment, task = context.experiment, context.task
    proposer = experiment.propose.by
    by = "BM25" if isinstance(proposer, Bm25Method) else _encoder_name(proposer.encoder)
    return [
        ("Labels", ", ".join(task.label_words)),
        ("Template", task.template),
        ("Pool", f"{experiment.pool_lang}; {experiment.demonstrations} demonstrations a prompt"),
        ("Language model", _language_model_name(experiment.language_model)),
        ("Judged pairs", f"for each text of the pool the {experiment.propose.k} closest by {by}"),
        ("Intervals", f"95%, bootstrap with {experiment.evaluate.bootstrap_samples} samples"),
    ]


def _encoder_name(encoder: EncoderConfig) -> str:
    known = {"mini": "the mini encoder that ships with the package", "minilm": "all-MiniLM-L6-v2"}
    layer = f", layer {encoder.layer}" if encoder.layer is not None else ""
    return known.get(encoder.model, encoder.model) + layer


def _language_model_name(model: LanguageModelConfig) -> str:
    name = "the mini language model that ships with the package" if model.model == "mini" else model.model
    adapter = f" with the adapter {model.adapter}" if model.adapter else ""
    return f"{name}{adapter}, {model.dtype}"
