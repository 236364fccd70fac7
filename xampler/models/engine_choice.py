"""Choose the fastest engine that gives a model's own results.

What a model's class and config say decides first; then a few random tokens are scored by the engine and
by the plain computation (one prompt, one label, no batching), and must agree.
"""

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from xampler.errors import ModelError
from xampler.models.engines import Engine, PackedEngine, PaddedEngine
from xampler.models.fewer_rows import find_savings
from xampler.models.label_tokens import TokenizedPrompt
from xampler.models.packed_attention import PackedAttentionError
from xampler.models.packing import MIN_SHARED_TOKENS

logger = logging.getLogger(__name__)

# Nats. Wrong attention or positions are off by more; bfloat16 has 8 bits of precision per token.
_TOLERANCE, _TOLERANCE_HALF = 2e-3, 0.5
# Half precision and quantised weights may be off by more, but then the plain computation is off from itself
# where its tensors have other shapes: where several copies of a prompt make a batch. Within bounds: a model
# that mixes the texts of a batch is off from itself as well.
_TIMES_ITS_OWN_NOISE, _COPIES, _TOLERANCE_MOST = 4, 5, 2.0

# Their angles depend on the longest sequence of a batch.
_ROPE_BY_LENGTH = ("dynamic", "longrope")


def choose_engine(model: PreTrainedModel) -> Engine:
    """The packed engine if the model can be run packed, else the padded one.

    Raises:
        ModelError: no engine gives the results of the plain computation.
    """
    items = _probe_items(model.config.get_text_config().vocab_size)
    expected = np.stack([_plain_log_likelihoods(model, item) for item in items])
    tolerance = _tolerance(model, items, expected)
    original = model.config._attn_implementation
    reason = "its attention cannot be replaced"
    if _can_pack(model):
        savings = find_savings(model)
        for own in (savings, None) if savings else (None,):
            try:
                engine: Engine = PackedEngine(model, own)
                if _agrees(engine, items, expected, tolerance):
                    return engine
                reason = "its results would depend on what else is in the batch"
            except torch.OutOfMemoryError:
                raise
            except (PackedAttentionError, TypeError, ValueError, IndexError, RuntimeError) as error:
                reason = str(error)
            if own:
                own.remove()
        model.set_attn_implementation(original)
    logger.info("%s: padded batches, which are slower, since %s", type(model).__name__, reason)
    engine = PaddedEngine(model, alone=_rope_type(model) in _ROPE_BY_LENGTH)
    if not _agrees(engine, items, expected, tolerance):
        raise ModelError(
            f"{type(model).__name__} does not compute like the causal models that this scorer knows; "
            "choose another scorer"
        )
    return engine


def _can_pack(model: PreTrainedModel) -> bool:
    config = model.config.get_text_config()
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        bool(getattr(model, "_supports_attention_backend", False))
        and layer_types <= {"full_attention", "sliding_attention"}
        and _rope_type(model) not in _ROPE_BY_LENGTH
    )


def _rope_type(model: PreTrainedModel) -> str:
    parameters = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return str(parameters.get("rope_type", "default"))


def _probe_items(vocabulary: int) -> list[TokenizedPrompt]:
    """Two prompts that begin alike and one that does not; labels of one, two and three tokens.

    Tokens stand at several places each, so that one whose states depend on its place is found out.
    """
    rng = np.random.default_rng(0)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(vocabulary, size=count).tolist())

    shared, (a, b, c, d) = draw(MIN_SHARED_TOKENS + 4), draw(4)
    tails = ((a, b), (a, c, d), (a,), (d,))
    contexts = (shared + draw(5), shared + draw(7), draw(2) + shared[::-1])
    return [TokenizedPrompt(context, tails) for context in contexts]


@torch.inference_mode()
def _plain_log_likelihoods(
    model: PreTrainedModel, item: TokenizedPrompt, copies: int = 1
) -> NDArray[np.float64]:
    """Log-likelihoods [L] in nats, of the first of so many copies."""
    scores = []
    for tail in item.tails:
        tokens = torch.tensor([[*item.context, *tail]] * copies, device=model.device)
        logits = model(input_ids=tokens, use_cache=False).logits[0].float()
        log_probs = torch.log_softmax(logits[len(item.context) - 1 : -1], dim=-1)
        targets = torch.tensor(tail, device=log_probs.device)
        scores.append(float(log_probs[torch.arange(len(tail)), targets].double().sum()))
    return np.array(scores)


def _tolerance(model: PreTrainedModel, items: list[TokenizedPrompt], expected: NDArray[np.float64]) -> float:
    """Nats by which an engine may differ from the plain computation."""
    if model.dtype == torch.float32 and not getattr(model, "is_quantized", False):
        return _TOLERANCE
    copied = np.stack([_plain_log_likelihoods(model, item, _COPIES) for item in items])
    noise = float(np.abs(copied - expected).max())
    return min(_TOLERANCE_MOST, max(_TOLERANCE_HALF, _TIMES_ITS_OWN_NOISE * noise))


def _agrees(
    engine: Engine, items: list[TokenizedPrompt], expected: NDArray[np.float64], tolerance: float
) -> bool:
    scores = np.empty_like(expected)
    for batch in engine.batches(items, range(len(items)), 1024):
        scores[list(batch.prompts)] = engine.run(items, batch)
    return float(np.abs(scores - expected).max()) <= tolerance
