"""The measurements for a GPU, at tiny shapes on the CPU."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from benchmarks import Measurement, Way
from benchmarks.gpu.__main__ import Section, run_section
from benchmarks.gpu.device import DeviceMeasurement, FlopCount, unless_out_of_memory
from benchmarks.gpu.scoring import best_budget, make_prompts
from benchmarks.gpu.shapes import TINY, Setting, make_llama, with_same_weights
from xampler.mini.data import read_corpus

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def setting(embedded: Path) -> Setting:
    return Setting(TINY, CPU, read_corpus(embedded, "train"), read_corpus(embedded, "test"))


def result(wall_s: float, *, ran_out: bool = False) -> DeviceMeasurement:
    way = Way("xampler", lambda texts: np.zeros((len(texts), 1)))
    return DeviceMeasurement(Measurement(way, 1, wall_s, wall_s, np.zeros((1, 1))), 6.0, 0.0, ran_out)


@pytest.mark.parametrize("section", list(Section))
def test_every_section_gives_a_table(setting: Setting, section: Section) -> None:
    table = run_section(section, setting)
    header, rule, *rows = [line for line in table.splitlines() if line.startswith("|")]
    assert rows
    assert rule.count("|") == header.count("|")
    assert not re.search(r"\b(nan|inf|out of memory)\b", table)
    if section is Section.EXACTNESS:
        whole = [row.split("|") for row in rows if "float32, cpu" in row]
        assert all(float(largest) < 1e-4 for _, _, _, largest, *_ in whole)


def test_flops_are_those_of_the_shapes() -> None:
    with torch.inference_mode(), FlopCount() as count:
        torch.nn.Linear(3, 5)(torch.zeros(2, 4, 3))
        assert count.flops == 2 * 8 * 3 * 5
        heads = torch.zeros(1, 2, 4, 6)  # two heads, four tokens, six wide
        scaled_dot_product_attention(heads, heads, heads)
        assert count.flops == 240 + 2 * 2 * (2 * 4 * 4 * 6)
        scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        assert count.flops == 240 + 768 + 384
    linear(torch.zeros(1, 1), torch.zeros(1, 1))
    assert count.flops == 1392


def test_flops_of_a_model_are_two_a_weight_and_token() -> None:
    model = make_llama(TINY.llama, CPU, torch.bfloat16)
    looked_up = TINY.llama.rows * TINY.llama.hidden
    weights = sum(weight.numel() for weight in model.parameters() if weight.ndim == 2) - looked_up
    attention = TINY.llama.layers * 4 * 10 * 10 * TINY.llama.hidden / 2
    with torch.inference_mode(), FlopCount() as count:
        model(torch.zeros(1, 10, dtype=torch.long), use_cache=False)
    assert count.flops == 2 * 10 * weights + attention


def test_a_second_model_has_the_same_weights_and_its_own_hooks() -> None:
    model = make_llama(TINY.llama, CPU, torch.bfloat16)
    other = with_same_weights(model)
    assert all(a is b for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert {weight.dtype for weight in other.parameters()} == {torch.bfloat16}
    other.get_decoder().register_forward_hook(lambda *_: None)
    assert not model.get_decoder()._forward_hooks


def test_prompts_share_demonstrations_or_do_not(setting: Setting) -> None:
    for shared, different in ((False, 20), (True, 2)):
        prompts = make_prompts(setting, 2, 20, shared=shared)
        assert len({prompt.split("\n")[0] for prompt in prompts}) == different
        assert {prompt.count("\n") for prompt in prompts} == {2}


def test_best_budget_fits_every_kind_and_takes_the_least_time() -> None:
    tried = {
        ("short", 1): result(3.0),
        ("long", 1): result(3.0),
        ("short", 2): result(1.0),
        ("long", 2): result(4.0),
        ("short", 3): result(1.0),
        ("long", 3): result(1.0, ran_out=True),
        ("short", 4): result(1.0),
        ("long", 4): None,
    }
    assert best_budget(tried) == 2
    assert best_budget({("short", 4): None}) is None


def test_only_the_end_of_memory_is_passed_over() -> None:
    def fail(message: str) -> str:
        raise RuntimeError(message)

    assert unless_out_of_memory(lambda: "done") == "done"
    assert unless_out_of_memory(lambda: fail("CUDA out of memory")) is None
    with pytest.raises(RuntimeError, match="shapes"):
        unless_out_of_memory(lambda: fail("shapes cannot be multiplied"))
