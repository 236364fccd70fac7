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
_TOLERANCE = {torch.float32: 2e-3}
_TOLERANCE_HALF = 0.5

# Their angles depend on the longest sequence of a batch.
_ROPE_BY_LENGTH = ("dynamic", "longrope")


def choose_engine(model: PreTrainedModel) -> Engine:
    """The packed engine if the model can be run packed, else the padded one.

    Raises:
        ModelError: no engine gives the results of the plain computation.
    """
    items = _probe_items(model.config.get_text_config().vocab_size)
    expected = np.stack([_plain_log_likelihoods(model, item) for item in items])
    original = model.config._attn_implementation
    reason = "its attention cannot be replaced"
    if _can_pack(model):
        savings = find_savings(model)
        for own in (savings, None) if savings else (None,):
            try:
                engine: Engine = PackedEngine(model, own)
                if _agrees(engine, items, expected, model.dtype):
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
    if not _agrees(engine, items, expected, model.dtype):
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
def _plain_log_likelihoods(model: PreTrainedModel, item: TokenizedPrompt) -> NDArray[np.float64]:
    scores = []
    for tail in item.tails:
        tokens = torch.tensor([[*item.context, *tail]], device=model.device)
        logits = model(input_ids=tokens, use_cache=False).logits[0].float()
        log_probs = torch.log_softmax(logits[len(item.context) - 1 : -1], dim=-1)
        targets = torch.tensor(tail, device=log_probs.device)
        scores.append(float(log_probs[torch.arange(len(tail)), targets].double().sum()))
    return np.array(scores)


def _agrees(
    engine: Engine, items: list[TokenizedPrompt], expected: NDArray[np.float64], dtype: torch.dtype
) -> bool:
    scores = np.empty_like(expected)
    for batch in engine.batches(items, range(len(items)), 1024):
        scores[list(batch.prompts)] = engine.run(items, batch)
    difference = float(np.abs(scores - expected).max())
    return difference <= _TOLERANCE.get(dtype, _TOLERANCE_HALF)
