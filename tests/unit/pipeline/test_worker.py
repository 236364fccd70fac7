import gc
from collections.abc import Iterator

import pytest

from xampler.pipeline.worker import keep_loaded


@pytest.fixture(autouse=True)
def _unfrozen() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()
    keep_loaded.cache_clear()


def test_a_model_is_loaded_once_and_collections_pass_it_over() -> None:
    asked: list[str] = []

    def load(name: str) -> dict[str, list[str]]:
        asked.append(name)
        return {"weights": [name]}

    model = keep_loaded(load, "mini")
    assert keep_loaded(load, "mini") is model
    assert keep_loaded(load, "large") is not model
    assert asked == ["mini", "large"]
    assert not any(other is model for other in gc.get_objects())  # which leaves out what is frozen
    assert gc.get_freeze_count() > 0
