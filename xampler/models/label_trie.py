"""Label words of several tokens as a trie behind the prompt.

A label's tokens but the last are inputs of the model; labels that begin alike share them. Row 0 of a trie
is the last token of the prompt itself, row n + 1 its n-th node. Shapes: N nodes, S steps, L labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Tail = tuple[int, ...]  # the tokens of one label's words behind the prompt, at least one


@dataclass(frozen=True)
class LabelTrie:
    """Token inputs behind a prompt, and what to add up for each label's log-likelihood.

    A step is the log-probability of one token read off one row; labels share the steps they have in common.
    """

    tokens: tuple[int, ...]  # [N] input tokens, parents before children
    parents: tuple[int, ...]  # [N] node index of the parent, -1 for the prompt itself
    depths: tuple[int, ...]  # [N] 0 for nodes right behind the prompt
    step_rows: tuple[int, ...]  # [S] row that a step is read off
    step_tokens: tuple[int, ...]  # [S] token whose log-probability it is
    label_steps: tuple[tuple[int, ...], ...]  # [L] steps that make up each label

    def ancestors(self, node: int) -> list[int]:
        """Nodes from the prompt to ``node``, itself included."""
        path = [node]
        while (node := self.parents[node]) >= 0:
            path.append(node)
        return path[::-1]


@lru_cache(maxsize=1024)
def build_label_trie(tails: tuple[Tail, ...]) -> LabelTrie:
    """The trie of ``tails``; a tail may be the beginning of another one."""
    nodes: dict[Tail, int] = {}
    steps: dict[tuple[int, int], int] = {}
    label_steps = []
    for tail in tails:
        own_steps = []
        for length, token in enumerate(tail):
            path = tail[:length]
            row = 1 + nodes.setdefault(path, len(nodes)) if path else 0
            own_steps.append(steps.setdefault((row, token), len(steps)))
        label_steps.append(tuple(own_steps))
    return LabelTrie(
        tokens=tuple(path[-1] for path in nodes),
        parents=tuple(nodes[path[:-1]] if len(path) > 1 else -1 for path in nodes),
        depths=tuple(len(path) - 1 for path in nodes),
        step_rows=tuple(row for row, _ in steps),
        step_tokens=tuple(token for _, token in steps),
        label_steps=tuple(label_steps),
    )


def longest_tail(tails: Sequence[Tail]) -> int:
    """Tokens of the longest of ``tails``."""
    return max(map(len, tails))
