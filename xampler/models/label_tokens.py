"""Prompts and label words to tokens.

``joint`` encodes prompt and label words together and cuts where the tokens of all labels and of the
prompt alone part. ``separate`` encodes the label words by themselves, behind a space, as the paper's
harness does; tokenizers of the Llama type then put a stray word-boundary piece in front.
"""

import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from xampler.errors import DataError, LabelWordError
from xampler.models.label_trie import Tail
from xampler.models.pieces import PieceTokenizer, begins_word

LabelTokens = Literal["joint", "separate"]


@dataclass(frozen=True)
class TokenizedPrompt:
    """What the model reads before the labels part, and each label's tokens behind it."""

    context: tuple[int, ...]
    tails: tuple[Tail, ...]


class PromptTokenizer:
    """Tokenizes prompts with one set of label words after another."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, label_tokens: LabelTokens) -> None:
        self.tokenizer = tokenizer
        self.label_tokens = label_tokens
        self.pieces = PieceTokenizer(tokenizer, self.encode)
        self.leading = _leading_special_tokens(tokenizer)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text, without special tokens."""
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        return list(encoded["input_ids"])

    def truncate(self, text: str, max_tokens: int) -> str:
        """The beginning of ``text`` that has at most ``max_tokens`` tokens, cut between characters."""
        if not self.tokenizer.is_fast:
            return text if self._fits(text, max_tokens) else self._bisect(text, max_tokens)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ends = [end for _, end in encoded["offset_mapping"]]
        if len(ends) <= max_tokens:
            return text
        # The beginning of a piece may itself be several pieces, so the first cut can be too long.
        cuts = sorted(set(ends[:max_tokens]), reverse=True)
        beginnings = (text[: _character_border(text, end)] for end in cuts)
        return next((beginning for beginning in beginnings if self._fits(beginning, max_tokens)), "")

    def _fits(self, text: str, max_tokens: int) -> bool:
        return len(self.encode([text])[0]) <= max_tokens

    def _bisect(self, text: str, max_tokens: int) -> str:
        """As :meth:`truncate`, of a text too long, by a tokenizer that does not tell where its tokens end."""
        first_too_long = bisect_left(
            range(len(text)), True, key=lambda end: not self._fits(text[:end], max_tokens)
        )
        return text[: _character_border(text, first_too_long - 1)]

    def tokenize(self, prompts: Sequence[Sequence[str]], label_words: Sequence[str]) -> list[TokenizedPrompt]:
        """Tokens of every prompt, given in pieces, with every label.

        Raises:
            LabelWordError: label words that tokenise to nothing.
            DataError: a prompt that tokenises to nothing.
        """
        for words in label_words:
            if not words.strip():
                raise LabelWordError(f"label words {words!r} are empty; give every label at least one word")
        prompt_ids = self.pieces.tokens(prompts)
        cut = self._separate if self.label_tokens == "separate" else self._joint
        tokenized = cut(prompts, prompt_ids, label_words)
        _check(prompts, label_words, tokenized)
        return tokenized

    def _separate(
        self, prompts: Sequence[Sequence[str]], prompt_ids: list[list[int]], label_words: Sequence[str]
    ) -> list[TokenizedPrompt]:
        tails = tuple(tuple(ids) for ids in self.encode([f" {words}" for words in label_words]))
        return [TokenizedPrompt((*self.leading, *ids), tails) for ids in prompt_ids]

    def _joint(
        self, prompts: Sequence[Sequence[str]], prompt_ids: list[list[int]], label_words: Sequence[str]
    ) -> list[TokenizedPrompt]:
        endings = _Endings(self.encode, self.tokenizer, label_words)
        cut_off = [endings.tails(pieces, ids) for pieces, ids in zip(prompts, prompt_ids, strict=True)]
        whole = [number for number, tails in enumerate(cut_off) if tails is None]
        joined = [f"{''.join(prompts[number])} {words}" for number in whole for words in label_words]
        joined_ids = self.encode(joined)
        tokenized = {
            number: self._part(
                prompt_ids[number], joined_ids[at * len(label_words) : (at + 1) * len(label_words)]
            )
            for at, number in enumerate(whole)
        }
        for number, tails in enumerate(cut_off):
            if tails is not None:
                tokenized[number] = TokenizedPrompt((*self.leading, *prompt_ids[number]), tails)
        return [tokenized[number] for number in range(len(prompts))]

    def _part(self, prompt_ids: list[int], joined_ids: list[list[int]]) -> TokenizedPrompt:
        shared = min(common_length(prompt_ids, ids) for ids in joined_ids)
        tails = tuple(tuple(ids[shared:]) for ids in joined_ids)
        return TokenizedPrompt((*self.leading, *prompt_ids[:shared]), tails)


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    limit = min(len(left), len(right))
    return next((at for at in range(limit) if left[at] != right[at]), limit)


class _Endings:
    """Tails of label words by the prompt's last word, so that prompts need no encoding per label.

    Pieces never cross the borders that a pre-tokenizer draws. Where it draws one before the prompt's last
    word and one before the label words, what stands further left cannot change the labels' tokens. Whether
    it does is read off the tokenizer's own word numbers; without them every prompt is encoded per label.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], list[list[int]]],
        tokenizer: PreTrainedTokenizerBase,
        label_words: Sequence[str],
    ) -> None:
        self.encode = encode
        self.tokenizer = tokenizer
        self.label_words = label_words
        self.known: dict[str, tuple[tuple[int, ...], tuple[Tail, ...]] | None] = {}

    def tails(self, pieces: Sequence[str], prompt_ids: list[int]) -> tuple[Tail, ...] | None:
        """Tails behind a prompt, None where only encoding the whole can tell."""
        prompt = pieces[-1] if " " in pieces[-1].lstrip() else "".join(pieces)
        ending = prompt[max(prompt.rfind(" "), 0) :]
        if ending not in self.known:
            prompt = "".join(pieces)
            self.known[ending] = self._examine(prompt, ending)
        known = self.known[ending]
        if known is None or tuple(prompt_ids[-len(known[0]) :]) != known[0]:
            return None
        return known[1]

    def _examine(self, prompt: str, ending: str) -> tuple[tuple[int, ...], tuple[Tail, ...]] | None:
        if not self.tokenizer.is_fast or not ending.strip() or ending == prompt:
            return None
        [prompt_ids] = self.encode([prompt])
        border = len(prompt_ids)
        starts = set[int]()
        tails = []
        for words in self.label_words:
            encoded = self.tokenizer(
                f"{prompt} {words}", add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            ids = encoded["input_ids"]
            first_visible = len(prompt) - len(ending.lstrip())
            ends = [end for _, end in encoded["offset_mapping"]]
            start = next((at for at, end in enumerate(ends) if end > first_visible), 0)
            if ids[:border] != prompt_ids or not 0 < start < border < len(ids):
                return None
            if not all(begins_word(encoded.word_ids(0), at) for at in (start, border)):
                return None
            starts.add(start)
            tails.append(tuple(ids[border:]))
        return tuple(prompt_ids[min(starts) :]), tuple(tails)


def _character_border(text: str, end: int) -> int:
    """``end``, moved left so that marks stay with the letter that they stand on."""
    while 0 < end < len(text) and unicodedata.combining(text[end]):
        end -= 1
    return end


def _leading_special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What the tokenizer puts before a text; what it puts behind one would part prompt and label."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return tuple(whole[:start])
    return ()


def _check(
    prompts: Sequence[Sequence[str]], label_words: Sequence[str], tokenized: Sequence[TokenizedPrompt]
) -> None:
    for pieces, item in zip(prompts, tokenized, strict=True):
        for words, tail in zip(label_words, item.tails, strict=True):
            if not tail:
                raise LabelWordError(
                    f"label words {words!r} tokenise to nothing with this model's tokenizer; "
                    "choose other words for this label in the task's verbalizer"
                )
        if not item.context:
            raise DataError(
                f"prompt {''.join(pieces)!r} tokenises to nothing; give a prompt with at least one token"
            )
