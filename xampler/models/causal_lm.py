"""A causal language model as scorer and labeller.

Shapes: P prompts, L labels.
"""

import functools
import sys
from collections.abc import Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from xampler.core.ports import ScoringStatistics
from xampler.errors import DataError, LabelWordError
from xampler.models.cpu_linear import speed_up
from xampler.models.engine_choice import choose_engine
from xampler.models.engines import Batch, Engine
from xampler.models.label_tokens import LabelTokens, PromptTokenizer, TokenizedPrompt
from xampler.models.label_trie import longest_tail
from xampler.models.memory import TokenBudget

# Measured best on one CPU core; on a GPU what the first batch has, which tells how many tokens fit.
_TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 16384}
_TRUNCATED_TEXTS = 65_536  # kept at most


class CausalLanguageModel:
    """Scores label words after prompts, exactly as one plain forward per prompt and label would."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens: int = 2048,
        tokens_per_batch: int | None = None,
        label_tokens: LabelTokens = "joint",
    ) -> None:
        """``max_tokens``: the longest prompt, label words included; the model's positions bound it too."""
        self.model = model.eval()
        self.statistics = ScoringStatistics()
        self._tokenizer = PromptTokenizer(tokenizer, label_tokens)
        # A pool's candidates are shown again and again.
        self._truncate = functools.lru_cache(_TRUNCATED_TEXTS)(self._tokenizer.truncate)
        self._max_tokens = min(max_tokens, _positions(model))
        tokens = tokens_per_batch or _TOKENS_PER_BATCH.get(model.device.type, 2048)
        devices = {parameter.device for parameter in model.parameters()}
        self._budget = TokenBudget(tokens, devices, fixed=tokens_per_batch is not None)
        self._engine: Engine = choose_engine(model)
        speed_up(model.get_decoder())
        # Servers call a labeller from several threads; what a batch needs is kept at the model's modules.
        self._one_at_a_time = Lock()

    @property
    def max_tokens(self) -> int:
        """The longest prompt, label words and special tokens included, that the model takes."""
        return self._max_tokens

    def score_labels(self, prompts: Sequence[str], label_words: Sequence[str]) -> NDArray[np.float64]:
        """Log-likelihood [P, L], in nats, of each label's words after each prompt and one space.

        Rows in input order; equal prompts are computed once.

        Raises:
            LabelWordError, DataError, ModelError: as :meth:`score_pieces`.
        """
        return self.score_pieces([(prompt,) for prompt in prompts], label_words)

    def score_pieces(
        self, prompts: Sequence[Sequence[str]], label_words: Sequence[str]
    ) -> NDArray[np.float64]:
        """The same for prompts in pieces (:func:`~xampler.core.prompt.prompt_pieces`), the query's last.

        A piece that was seen before is not tokenised again.

        Raises:
            LabelWordError: label words that tokenise to nothing.
            DataError: a prompt that is empty or, with the label words, longer than ``max_tokens``.
            ModelError: memory does not suffice for a single prompt.
        """
        if not label_words:
            raise LabelWordError("no label words were given; give at least one label")
        with self._one_at_a_time:
            return self._score(prompts, label_words)

    def _score(self, prompts: Sequence[Sequence[str]], label_words: Sequence[str]) -> NDArray[np.float64]:
        if not prompts:
            self.statistics = ScoringStatistics()
            return np.empty((0, len(label_words)))
        given = [tuple(pieces) for pieces in prompts]
        unique = list(dict.fromkeys(given))
        items = self._tokenizer.tokenize(unique, label_words)
        self._check_lengths(unique, items)
        place = {item: number for number, item in reversed(list(enumerate(items)))}
        scores = np.empty((len(items), len(label_words)))
        batches = self._run(items, sorted(place.values()), scores)
        self.statistics = ScoringStatistics(
            prompts=len(prompts),
            scored=len(place),
            tokens=sum(len(item.context) for item in place),
            tokens_computed=sum(batch.computed_tokens for batch in batches),
            tokens_shared=sum(batch.shared_tokens for batch in batches),
            tokens_padding=sum(batch.padding_tokens for batch in batches),
            batches=len(batches),
        )
        number_of = {pieces: place[item] for pieces, item in zip(unique, items, strict=True)}
        return scores[[number_of[pieces] for pieces in given]]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by itself, without special tokens."""
        return [len(ids) for ids in self._tokenizer.encode(texts)]

    def truncate(self, text: str, max_tokens: int) -> str:
        """The longest beginning of ``text`` that has at most ``max_tokens`` tokens by itself."""
        return self._truncate(text, max_tokens)

    def _check_lengths(self, prompts: Sequence[Sequence[str]], items: Sequence[TokenizedPrompt]) -> None:
        for pieces, item in zip(prompts, items, strict=True):
            length = len(item.context) + longest_tail(item.tails)
            if length > self._max_tokens:
                beginning = "".join(pieces)[:80]
                raise DataError(
                    f"a prompt has {length} tokens with its label words, but the model takes "
                    f"{self._max_tokens} (prompt: {beginning!r}...); use fewer or shorter demonstrations"
                )

    def _run(
        self, items: Sequence[TokenizedPrompt], numbers: list[int], scores: NDArray[np.float64]
    ) -> list[Batch]:
        """Fill the rows ``numbers`` of ``scores``; the token budget halves where memory ends."""
        done: list[Batch] = []
        while numbers:
            batches = self._engine.batches(items, numbers, self._budget.tokens)
            for batch in batches:
                budget = self._budget.tokens
                with self._budget.attempt(batch.computed_tokens, len(batch.prompts)):
                    scores[list(batch.prompts)] = self._engine.run(items, batch)
                    done.append(batch)
                if self._budget.tokens < budget:
                    break
            finished = {number for batch in done for number in batch.prompts}
            numbers = [number for number in numbers if number not in finished]
        return done


def _positions(model: PreTrainedModel) -> int:
    """Positions that the model knows; as good as unbounded where it computes them."""
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) else sys.maxsize
