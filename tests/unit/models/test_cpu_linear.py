import platform
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from xampler.models import cpu_linear
from xampler.models.cpu_linear import make_linears, round_up, speed_up


@pytest.fixture
def _asked_anew() -> Iterator[None]:
    cpu_linear._works.cache_clear()
    yield
    cpu_linear._works.cache_clear()


@pytest.mark.parametrize("copied_bytes", [0, 1 << 30])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_outputs_are_those_of_the_layer(
    dtype: torch.dtype, bias: bool, copied_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_linear, "COPIED_BYTES", copied_bytes)
    torch.manual_seed(0)
    layer = nn.Linear(48, 33, bias=bias, dtype=dtype)
    [linear] = make_linears([(layer.weight, layer.bias)])
    tolerance = 1e-5 if dtype != torch.bfloat16 else 2e-2  # one rounding of bfloat16
    with torch.inference_mode():
        for shape in ((0,), (1,), (300,), (2, 7), (1, 1025)):
            inputs = torch.randn(*shape, 48, dtype=dtype)
            outputs = linear(inputs)
            assert outputs.dtype == dtype
            torch.testing.assert_close(outputs, layer(inputs), atol=tolerance, rtol=tolerance)


def test_a_model_keeps_its_parameters_and_gives_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4, bias=False), nn.Bilinear(4, 4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = torch.randn(5, 16)
    with torch.inference_mode():
        expected = model[:3](inputs)
        speed_up(model)
        torch.testing.assert_close(model[:3](inputs), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.state_dict(), before, atol=0, rtol=0)


def test_few_different_numbers_of_rows_and_few_rows_more() -> None:
    rounded = {rows: round_up(rows) for rows in range(1, 5000)}
    assert all(0 <= given - rows <= max(15, rows / 64) for rows, given in rounded.items())
    assert all(round_up(given) == given for given in rounded.values())
    assert len(set(rounded.values())) < 240
    assert round_up(0) == 0


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available(),
    reason="no x86 CPU, or torch without oneDNN",
)
def test_linear_layers_are_computed_by_onednn() -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 4))
    speed_up(model)
    with torch.inference_mode(), torch.profiler.profile() as profiled:
        model(torch.randn(5, 16))
    counts = {event.key: event.count for event in profiled.key_averages()}
    assert counts["mkldnn::_linear_pointwise"] == 2
    assert "aten::addmm" not in counts


def test_gradients_are_those_of_the_layer() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 4)
    inputs = torch.randn(5, 16)
    layer(inputs).square().sum().backward()
    assert layer.weight.grad is not None
    expected = layer.weight.grad.clone()
    layer.weight.grad = None
    speed_up(nn.Sequential(layer))
    layer(inputs).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, expected, atol=0, rtol=0)


@pytest.mark.usefixtures("_asked_anew")
@pytest.mark.parametrize("error", [AttributeError("no such operator"), None])
def test_a_torch_without_it_computes_by_itself(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(input: torch.Tensor, *, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if error is not None:
            raise error
        return torch.zeros(*input.shape[:-1], len(weight))

    monkeypatch.setattr(cpu_linear, "_onednn", broken)
    layer = nn.Linear(16, 32)
    inputs = torch.randn(5, 16)
    expected = layer(inputs)
    speed_up(nn.Sequential(layer))
    assert "forward" not in vars(layer)
    [linear] = make_linears([(layer.weight, layer.bias)])
    torch.testing.assert_close(linear(inputs), expected, atol=0, rtol=0)
