"""Models that claim to be plain causal ones, but whose results depend on their neighbours."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from xampler.errors import ModelError
from xampler.models.engine_choice import choose_engine
from xampler.models.engines import PackedEngine, PaddedEngine


def _mix(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
    """A running mean over the row: causal, but blind to where one prompt ends and the next begins."""
    return output.cumsum(1) / torch.arange(1, output.shape[1] + 1)[:, None]


def test_probe_refuses_to_pack_what_mixes_neighbours(
    models_by_name: Callable[[str], PreTrainedModel],
) -> None:
    model = models_by_name("llama")
    assert isinstance(choose_engine(model), PackedEngine)
    model = models_by_name("llama")
    model.get_input_embeddings().register_forward_hook(_mix)
    assert isinstance(choose_engine(model), PaddedEngine)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("name", "first"), [("llama", True), ("gpt2", False), ("gpt_neox", False)])
def test_layers_that_are_computed_for_fewer_rows(
    name: str, first: bool, models_by_name: Callable[[str], PreTrainedModel]
) -> None:
    engine = choose_engine(models_by_name(name))
    assert isinstance(engine, PackedEngine)
    assert engine.savings is not None
    assert (bool(engine.savings.first), bool(engine.savings.last)) == (first, True)


def test_one_layer_is_the_last(models_by_name: Callable[[str], PreTrainedModel]) -> None:
    model = models_by_name("llama")
    decoder = model.get_decoder()
    decoder.layers = decoder.layers[:1]
    model.config.num_hidden_layers = 1
    engine = choose_engine(model)
    assert isinstance(engine, PackedEngine)
    assert engine.savings is not None
    assert (bool(engine.savings.first), bool(engine.savings.last)) == (False, True)


def test_first_layer_that_is_told_places_is_computed_for_all_rows(
    models_by_name: Callable[[str], PreTrainedModel],
) -> None:
    model = models_by_name("llama")
    positions = torch.randn(512, 32)

    decoder = model.get_decoder()
    decoder.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: ((args[0] + positions[kwargs["position_ids"]], *args[1:]), kwargs),
        with_kwargs=True,
    )
    engine = choose_engine(model)
    assert isinstance(engine, PackedEngine)
    assert engine.savings is None


def test_half_precision_may_be_off_as_far_as_the_model_is_from_itself(
    models_by_name: Callable[[str], PreTrainedModel],
) -> None:
    """As large models are, whose rounding depends on the shapes of their tensors."""
    model = models_by_name("llama")
    torch.nn.Module.to(model, torch.bfloat16)  # the model's own method is not annotated

    def round_by_shape(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        rows = output.shape[0] * (1 if output.shape[1] < 40 else 3)  # packed prompts are one long row
        return output * (1 + (rows - 1) / 2)

    model.get_decoder().layers[0].mlp.register_forward_hook(round_by_shape)
    assert isinstance(choose_engine(model), PackedEngine)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_model_that_sees_what_follows_is_refused(
    dtype: torch.dtype, models_by_name: Callable[[str], PreTrainedModel]
) -> None:
    model = models_by_name("llama")
    torch.nn.Module.to(model, dtype)
    model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: output + output.mean(1, keepdim=True)
    )
    with pytest.raises(ModelError, match="LlamaForCausalLM does not compute like"):
        choose_engine(model)
