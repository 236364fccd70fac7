from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from xampler.training.throughput import PEAK_FLOPS, peak_flops, training_flops

HIDDEN, LAYERS = 32, 2  # of the tests' encoder


@pytest.mark.parametrize(
    ("device", "listed"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
        ("Tesla T4", None),
    ],
)
def test_peak_is_of_the_whole_name(device: str, listed: str | None) -> None:
    assert peak_flops(device) == (None if listed is None else PEAK_FLOPS[listed])


def test_sharded_weights_count_whole(encoder_folder: Path) -> None:
    """At ZeRO-3 each weight is an empty tensor that knows its size."""
    model = SentenceTransformer(str(encoder_folder), device="cpu")
    whole = training_flops(model)
    assert whole[0] > 6 * LAYERS * 4 * HIDDEN**2  # of attention alone
    for weight in model.parameters():
        weight.ds_numel = weight.numel()  # type: ignore[attr-defined]
        weight.data = weight.data.new_empty(0)
    assert training_flops(model) == whole
