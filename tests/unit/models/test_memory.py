"""The token budget of a GPU; that it halves is tested with the models."""

import pytest
import torch

from xampler.models.memory import TokenBudget, fitting_tokens

CUDA = torch.device("cuda:0")
GIB = 2**30


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What torch would say of a GPU's memory."""
    memory = {"allocated": 17 * GIB, "reserved": 20 * GIB, "free": 100 * GIB, "peak": 18 * GIB}
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: memory["allocated"])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: memory["reserved"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: memory["peak"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (memory["free"], 139 * GIB))
    return memory


def test_as_many_tokens_as_memory_holds() -> None:
    assert fitting_tokens(1000, 1000, 10_000) == 8000
    assert fitting_tokens(1000, 0, 10_000) == 131_072


def test_budget_is_what_the_first_full_batch_shows_to_fit(gpu: dict[str, int]) -> None:
    gpu["free"] = 2 * GIB  # and 3 GiB reserved, but not in use
    budget = TokenBudget(16_384, [CUDA], fixed=False)
    with budget.attempt(4096, 40):
        pass
    assert budget.tokens == 16_384
    with budget.attempt(16_000, 150):
        pass
    assert budget.tokens == 64_000  # 1 GiB for 16,000 tokens, and 80% of 5 GiB
    gpu["free"] = 100 * GIB
    with budget.attempt(16_000, 150):
        pass
    assert budget.tokens == 64_000


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_every_allocator_s_way_to_say_that_memory_ended(error: Exception) -> None:
    budget = TokenBudget(16_384, [torch.device("cpu")])
    with budget.attempt(16_000, 150):
        raise error
    assert budget.tokens == 8000


def test_other_errors_are_not_taken_for_it() -> None:
    budget = TokenBudget(16_384, [torch.device("cpu")])
    with pytest.raises(RuntimeError, match="shapes"), budget.attempt(16_000, 150):
        raise RuntimeError("shapes do not fit")
    assert budget.tokens == 16_384


def test_a_budget_never_grows_after_memory_ended(gpu: dict[str, int]) -> None:
    budget = TokenBudget(16_384, [CUDA], fixed=False)
    with budget.attempt(16_000, 150):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert budget.tokens == 8000
    with budget.attempt(8000, 75):
        pass
    assert budget.tokens == 8000


def test_a_given_budget_is_kept(gpu: dict[str, int]) -> None:
    budget = TokenBudget(16_384, [CUDA], fixed=True)
    with budget.attempt(16_000, 150):
        pass
    assert budget.tokens == 16_384


def test_nothing_is_measured_without_a_gpu() -> None:
    budget = TokenBudget(2048, [torch.device("cpu")], fixed=False)
    with budget.attempt(2048, 20):
        pass
    assert budget.tokens == 2048
