"""What the method asks of models.

Shapes: P prompts, L labels, N texts, D dimensions.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class LanguageModel(Protocol):
    """A causal language model in the role of scorer or labeller."""

    def score_labels(self, prompts: Sequence[str], label_words: Sequence[str]) -> NDArray[np.float64]:
        """Log-likelihood [P, L], in nats, of each label's words after each prompt and one space."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by itself, without special tokens."""

    def truncate(self, text: str, max_tokens: int) -> str:
        """The longest beginning of ``text`` that has at most ``max_tokens`` tokens."""

    @property
    def max_tokens(self) -> int:
        """The longest prompt, label words included, that the model takes."""


class Encoder(Protocol):
    """A text encoder; similarity is the cosine of its vectors."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [N, D] of the texts, rows in input order."""
