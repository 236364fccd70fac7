"""What the method asks of models.

Shapes: P prompts, L labels, N texts, D dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScoringStatistics:
    """What one call of ``score_labels`` or ``score_pieces`` took."""

    prompts: int = 0  # given
    scored: int = 0  # left of them without duplicates
    tokens: int = 0  # of the prompts without duplicates
    tokens_computed: int = 0  # by the model, label tokens and padding included
    tokens_shared: int = 0  # not computed again, as prompts began alike
    tokens_padding: int = 0  # computed for nothing
    batches: int = 0


class TokenCounter(Protocol):
    """How long a text is for a language model, and how long one may be."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by itself, without special tokens."""

    def truncate(self, text: str, max_tokens: int) -> str:
        """The longest beginning of ``text`` that has at most ``max_tokens`` tokens."""

    @property
    def max_tokens(self) -> int:
        """The longest prompt, label words included, that the model takes."""


class LanguageModel(TokenCounter, Protocol):
    """A causal language model in the role of scorer or labeller."""

    def score_labels(self, prompts: Sequence[str], label_words: Sequence[str]) -> NDArray[np.float64]:
        """Log-likelihood [P, L], in nats, of each label's words after each prompt and one space."""

    def score_pieces(
        self, prompts: Sequence[Sequence[str]], label_words: Sequence[str]
    ) -> NDArray[np.float64]:
        """The same for prompts that are given in pieces: their demonstrations, the query last."""

    @property
    def statistics(self) -> ScoringStatistics:
        """Of the last call of ``score_labels`` or ``score_pieces``."""


class Encoder(Protocol):
    """A text encoder; similarity is the cosine of its vectors."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [N, D] of the texts, rows in input order."""
