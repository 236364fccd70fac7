"""The prompts that the mini language model knows, as strings and as tokens.

Shape suffixes: none; a prompt is a flat list of token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from xampler.core.prompt import Demonstration, build_prompt
from xampler.core.task import Task
from xampler.mini.tokenizer import BOS_ID

# SIB-200's labels first; the others (MasakhaNEWS, Taxi1500) are known as label words, not as topics.
SIB200_LABELS = (
    "entertainment",
    "geography",
    "health",
    "politics",
    "science/technology",
    "sports",
    "travel",
)
OTHER_LABELS = ("business", "religion", "recommendation", "faith", "description", "sin", "grace", "violence")
TASK = Task(name="sib200", labels=SIB200_LABELS)
LABELS = (*SIB200_LABELS, *OTHER_LABELS)
FRAMES = (TASK.template, 'The topic of the verse "{text}" is {label}')


def _phrases() -> tuple[str, ...]:
    tasks = [Task(name="any", labels=LABELS, template=frame) for frame in FRAMES]
    return tuple(
        build_prompt(task, "", [Demonstration("", label), Demonstration("", label)])
        for task in tasks
        for label in task.labels
    )


PHRASES = _phrases()  # what the tokenizer must know beside the sentences


@dataclass(frozen=True)
class PromptTokens:
    """The pieces of a prompt as token ids; the tokenizer joins no tokens across them."""

    first_opening: tuple[int, ...]  # the template up to the text, at the start of the prompt
    opening: tuple[int, ...]  # the same on a later line
    closing: tuple[int, ...]  # from the text to the label
    line_break: tuple[int, ...]
    labels: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, labels: Sequence[str], frame: str = TASK.template) -> PromptTokens:
        """Tokenise a frame and its label words."""
        task = Task(name="any", labels=tuple(labels), template=frame)
        before, after = frame.removesuffix(" {label}").split("{text}")
        lines = [(task.separator if line else "", before, "x", after, f" {labels[0]}") for line in range(2)]
        first, second = _split(tokenizer, lines)
        return cls(
            first_opening=first[1],
            opening=second[1],
            closing=second[3],
            line_break=second[0],
            labels=tuple(_split(tokenizer, [("x", f" {label}")])[0][1] for label in labels),
        )

    def prompt(
        self, query: NDArray[np.int32], demonstrations: Sequence[tuple[NDArray[np.int32], int]]
    ) -> list[int]:
        """Token ids of a prompt, ``<s>`` first; demonstrations are (token ids, label number)."""
        ids = [BOS_ID]
        for text, label in demonstrations:
            ids += [*self._opening(ids), *text.tolist(), *self.closing, *self.labels[label], *self.line_break]
        return [*ids, *self._opening(ids), *query.tolist(), *self.closing]

    def _opening(self, ids: Sequence[int]) -> tuple[int, ...]:
        return self.opening if len(ids) > 1 else self.first_opening

    @property
    def identity_ids(self) -> tuple[int, ...]:
        """All tokens of template and labels, ``<s>`` first."""
        pieces = (self.first_opening, self.opening, self.closing, self.line_break, *self.labels)
        return (BOS_ID, *sorted({token for piece in pieces for token in piece}))


def _split(tokenizer: Tokenizer, lines: Sequence[Sequence[str]]) -> list[list[tuple[int, ...]]]:
    """Tokenise the pieces of all lines as one text; each token belongs to the piece in which it ends."""
    pieces = [piece for line in lines for piece in line]
    ends = np.cumsum([len(piece) for piece in pieces])
    encoding = tokenizer.encode("".join(pieces), add_special_tokens=False)
    owners = [int(np.searchsorted(ends, end)) for _, end in encoding.offsets]
    ids: list[list[int]] = [[] for _ in pieces]
    for token, owner in zip(encoding.ids, owners, strict=True):
        ids[owner].append(token)
    cuts = np.cumsum([0, *(len(line) for line in lines)])
    return [[tuple(piece) for piece in ids[start:end]] for start, end in pairwise(cuts)]
