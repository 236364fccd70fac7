"""Prompts in pieces to tokens: a demonstration that is shown again is not tokenised again.

The tokens of a prompt are those of its pieces, one after the other, where the tokenizer parts words at the
borders. Whether it does is read off its own word numbers, once for each pair of words that meet at a
border; where it does not, or does not tell, the prompt is tokenised as a whole.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, pairwise

from transformers import PreTrainedTokenizerBase

Encode = Callable[[Sequence[str]], list[list[int]]]

_KEPT = 65_536  # pieces, and borders, at most


class PieceTokenizer:
    """Tokens of prompts, without special tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encode: Encode) -> None:
        self.tokenizer = tokenizer
        self.encode = encode
        self.borders: dict[tuple[str, str], bool] = {}  # whether the words that meet there are parted
        self.known: dict[str, list[int]] = {}

    def tokens(self, prompts: Sequence[Sequence[str]]) -> list[list[int]]:
        """Tokens of each prompt, those of the whole text."""
        if len(self.known) > _KEPT:
            self.known.clear()
        if len(self.borders) > _KEPT:  # one per query, if the template begins with its text
            self.borders.clear()
        parted = [len(pieces) > 1 and all(map(self._parts, pairwise(pieces))) for pieces in prompts]
        split = [pieces for pieces, parts in zip(prompts, parted, strict=True) if parts]
        self._learn(piece for pieces in split for piece in pieces[:-1])
        # The last piece is the query's own, seldom seen again.
        last = iter(self.encode([pieces[-1] for pieces in split]))
        whole = iter(
            self.encode(["".join(pieces) for pieces, parts in zip(prompts, parted, strict=True) if not parts])
        )
        return [
            [*chain.from_iterable(self.known[piece] for piece in pieces[:-1]), *next(last)]
            if parts
            else next(whole)
            for pieces, parts in zip(prompts, parted, strict=True)
        ]

    def _learn(self, pieces: Iterable[str]) -> None:
        new = [piece for piece in dict.fromkeys(pieces) if piece not in self.known]
        self.known.update(zip(new, self.encode(new), strict=True))

    def _parts(self, pieces: tuple[str, str]) -> bool:
        left, right = pieces
        words = left[left.rfind(" ") + 1 :], right[:1] + right[1:].partition(" ")[0]
        if words not in self.borders:
            self.borders[words] = self._examine(left, right)
        return self.borders[words]

    def _examine(self, left: str, right: str) -> bool:
        if not self.tokenizer.is_fast:
            return False
        left_ids, right_ids = self.encode([left, right])
        encoded = self.tokenizer(left + right, add_special_tokens=False, verbose=False)
        border = len(left_ids)
        return bool(left_ids and right_ids and encoded["input_ids"] == left_ids + right_ids) and begins_word(
            encoded.word_ids(0), border
        )


def begins_word(word_ids: list[int | None], at: int) -> bool:
    """Whether the token ``at`` is the first of a word, by the tokenizer's own word numbers."""
    return word_ids[at] is not None and word_ids[at] != word_ids[at - 1]
