"""The encoder that training starts from, as a sentence-transformers model."""

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Pooling,
    Transformer,
    WeightedLayerPooling,
)

from xampler.errors import ModelError
from xampler.models.build import EncoderConfig, encoder_folder

PROMPT = "text"  # name of the prefix in the saved model


def load_starting_encoder(config: EncoderConfig) -> SentenceTransformer:
    """Load ``config`` with trainable weights; what is saved later loads as a plain encoder folder.

    A folder in sentence-transformers' layout keeps its own modules unless pooling or layer are given.

    Raises:
        ModelError: the model cannot be found or loaded, or has no layer of that number.
    """
    model = _load(config)
    if config.prefix:
        model.prompts = {PROMPT: config.prefix}
        model.default_prompt_name = PROMPT
    return model


def _load(config: EncoderConfig) -> SentenceTransformer:
    folder = encoder_folder(config)
    if (folder / "modules.json").is_file() and config.pooling is None and config.layer is None:
        model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=config.trust_remote_code)
        model.max_seq_length = config.max_tokens
        return model
    weighted = config.layer == "weighted"
    transformer = Transformer(
        str(folder),
        max_seq_length=config.max_tokens,
        config_kwargs={"output_hidden_states": True} if weighted else {},
    )
    if isinstance(config.layer, int):
        _keep_layers(transformer, config.layer)
    width = transformer.get_embedding_dimension()
    layers = transformer.auto_model.config.num_hidden_layers
    mixing = [WeightedLayerPooling(width, num_hidden_layers=layers, layer_start=1)] if weighted else []
    pooling = Pooling(width, pooling_mode=config.pooling or "mean")
    return SentenceTransformer(modules=[transformer, *mixing, pooling], device="cpu")


def _keep_layers(transformer: Transformer, layers: int) -> None:
    """The output of layer ``layers`` becomes the last one: those after it are dropped."""
    encoder = getattr(transformer.auto_model, "encoder", None)
    if encoder is None or not 0 < layers <= len(encoder.layer):
        raise ModelError(f"train.encoder.layer: the model has no layer {layers} to train; leave layer out")
    encoder.layer = encoder.layer[:layers]
    transformer.auto_model.config.num_hidden_layers = layers
