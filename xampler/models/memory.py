"""A budget of tokens per batch that gives way when memory ends."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from xampler.errors import ModelError

logger = logging.getLogger(__name__)


class TokenBudget:
    """Tokens that a batch may have; halved whenever a batch does not fit into memory."""

    def __init__(self, tokens: int, device: torch.device) -> None:
        self.tokens = tokens
        self.device = device
        self._halved = False

    @contextmanager
    def attempt(self, batch_tokens: int, batch_size: int) -> Iterator[None]:
        """Run a batch inside; where memory ends, the budget is halved and nothing raised.

        Raises:
            ModelError: memory ends with a batch of one.
        """
        try:
            yield
            return
        except (torch.OutOfMemoryError, MemoryError):
            pass
        except RuntimeError as error:
            if "DefaultCPUAllocator" not in str(error):  # torch has no class of its own for this one
                raise
        # Outside of the handlers, as the error's traceback holds on to the tensors of the batch.
        self._halve(batch_tokens, batch_size)

    def _halve(self, batch_tokens: int, batch_size: int) -> None:
        if batch_size <= 1:
            raise ModelError(
                f"memory of {self.device} does not suffice for one text of {batch_tokens} tokens; "
                "use a smaller model, dtype bfloat16 or shorter texts"
            )
        self.tokens = max(1, min(self.tokens, batch_tokens) // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not self._halved:
            logger.warning("out of memory on %s: halving the batches of %d tokens", self.device, batch_tokens)
        self._halved = True
