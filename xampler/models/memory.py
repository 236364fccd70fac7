"""A budget of tokens per batch that gives way when memory ends."""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch

from xampler.errors import ModelError
from xampler.models.placement import is_out_of_memory

logger = logging.getLogger(__name__)


_SHARE = 0.8  # of free memory, as allocators waste some of it
_MOST_TOKENS = 131_072  # more do not make a GPU faster


class TokenBudget:
    """Tokens that a batch may have; halved whenever a batch does not fit into memory.

    On a GPU the first batch tells how much memory a token takes, and the budget becomes what fits.
    """

    def __init__(self, tokens: int, devices: Collection[torch.device], *, fixed: bool = True) -> None:
        """``tokens``: to start with; ``devices``: all that hold the model; ``fixed``: never more."""
        self.tokens = tokens
        self._devices = sorted(set(devices), key=str)
        self._measures = not fixed and all(device.type == "cuda" for device in self._devices)
        self._halved = False

    @contextmanager
    def attempt(self, batch_tokens: int, batch_size: int) -> Iterator[None]:
        """Run a batch inside; where memory ends, the budget is halved and nothing raised.

        Raises:
            ModelError: memory ends with a batch of one.
        """
        before = self._start_measuring() if self._measures else {}
        try:
            yield
            if before:
                self._measure(batch_tokens, before)
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handlers, as the error's traceback holds on to the tensors of the batch.
        self._halve(batch_tokens, batch_size)

    def _halve(self, batch_tokens: int, batch_size: int) -> None:
        self._measures = False
        names = ", ".join(map(str, self._devices))
        if batch_size <= 1:
            raise ModelError(
                f"memory of {names} does not suffice for one text of {batch_tokens} tokens; "
                "use a smaller model, dtype bfloat16 or shorter texts"
            )
        self.tokens = max(1, min(self.tokens, batch_tokens) // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not self._halved:
            logger.warning("out of memory on %s: halving the batches of %d tokens", names, batch_tokens)
        self._halved = True

    def _start_measuring(self) -> dict[torch.device, int]:
        """Bytes in use by device."""
        for device in self._devices:
            torch.cuda.reset_peak_memory_stats(device)
        return {device: torch.cuda.memory_allocated(device) for device in self._devices}

    def _measure(self, batch_tokens: int, before: dict[torch.device, int]) -> None:
        """Set the budget to what fits, once a batch was about as large as the budget allows."""
        if 2 * batch_tokens < self.tokens:
            return
        self._measures = False
        fitting = []
        for device, used in before.items():
            peak = torch.cuda.max_memory_allocated(device) - used
            free = torch.cuda.mem_get_info(device)[0]
            free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            fitting.append(fitting_tokens(batch_tokens, peak, free))
        self.tokens = max(self.tokens, min(fitting))
        logger.info("batches of up to %d tokens", self.tokens)


def fitting_tokens(batch_tokens: int, batch_bytes: int, free_bytes: int) -> int:
    """Tokens of a batch that memory suffices for, where one of ``batch_tokens`` took ``batch_bytes``.

    At most as many as serve a GPU.
    """
    return min(_MOST_TOKENS, int(_SHARE * free_bytes * batch_tokens / max(1, batch_bytes)))
