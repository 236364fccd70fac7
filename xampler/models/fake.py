"""Models without weights, the same on every machine: for tests of whatever uses models.

Shapes: P prompts, L labels, N texts, D dimensions.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xampler.core.ports import ScoringStatistics
from xampler.core.text import stable_fraction, stable_hash

_WORD = re.compile(r"\w+")


class FakeLanguageModel:
    """Copies the labels of demonstrations, weighted by the words that they share with the query.

    A token is a blank-separated word. Demonstrations are lines that end in label words.
    """

    max_tokens = 2048

    def __init__(self) -> None:
        self.statistics = ScoringStatistics()

    def score_labels(self, prompts: Sequence[str], label_words: Sequence[str]) -> NDArray[np.float64]:
        """Log-likelihood [P, L] in nats; a touch of hash keeps labels apart that nothing else does."""
        scores = [self._score(prompt, label_words) for prompt in prompts]
        words = sum(self.count_tokens(prompts))
        self.statistics = ScoringStatistics(
            prompts=len(prompts), scored=len(prompts), tokens=words, tokens_computed=words, batches=1
        )
        return np.array(scores, dtype=np.float64).reshape(-1, len(label_words))

    def score_pieces(
        self, prompts: Sequence[Sequence[str]], label_words: Sequence[str]
    ) -> NDArray[np.float64]:
        """The same for prompts in pieces."""
        return self.score_labels(["".join(pieces) for pieces in prompts], label_words)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words of each text."""
        return [len(text.split()) for text in texts]

    def truncate(self, text: str, max_tokens: int) -> str:
        """The first ``max_tokens`` words."""
        return text if len(text.split()) <= max_tokens else " ".join(text.split()[:max_tokens])

    def _score(self, prompt: str, label_words: Sequence[str]) -> list[float]:
        *shots, query = prompt.split("\n")
        weights = [0.1 + 0.01 * stable_fraction(prompt, words) for words in label_words]
        query_words = _words(query)
        for shot in shots:
            shown = [words for words in label_words if shot.endswith(f" {words}")]
            if shown:
                label = max(shown, key=len)
                text = shot.removesuffix(f" {label}")
                weights[label_words.index(label)] += _overlap(_words(text), query_words)
        total = sum(weights)
        return [float(np.log(weight / total)) for weight in weights]


class FakeEncoder:
    """Texts as counts of hashed words, scaled to length 1: texts are near that share words."""

    def __init__(self, dimensions: int = 64) -> None:
        self.dimensions = dimensions

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [N, D], rows in input order."""
        vectors_ND = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in _WORD.findall(text.lower()):
                vectors_ND[row, int(stable_hash(word)[:8], 16) % self.dimensions] += 1
        norms_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        return np.asarray(vectors_ND / np.maximum(norms_N1, 1e-9), dtype=np.float32)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def _overlap(left: set[str], right: set[str]) -> float:
    """Jaccard index."""
    return len(left & right) / max(1, len(left | right))
