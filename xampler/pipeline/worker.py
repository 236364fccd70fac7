"""Models in Python workers, which serve one task after another."""

import functools
import gc
from collections.abc import Callable, Hashable
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Model = TypeVar("Model")


@functools.cache
def keep_loaded(load: Callable[[Key], Model], key: Key) -> Model:
    """``load(key)``, once per worker process, and out of sight of its garbage collections.

    Spark collects garbage after each task, which looks at all that torch and transformers are made of: 0.3
    seconds. What is there when a model has been loaded stays for the life of the worker.
    """
    loaded = load(key)
    gc.collect()  # what is garbage already must not stay as well
    gc.freeze()
    return loaded
