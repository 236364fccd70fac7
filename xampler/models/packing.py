"""Prompts packed into batches, shared beginnings computed once.

A batch is one row of tokens. Prompts stand in lexicographic order of their tokens, so those that begin
alike are neighbours: each repeats nothing of its predecessor but attends to its tokens, which lie further
left in the row. Behind its own tokens stand the nodes of its label trie. What a token sees is thus a few
ranges of the row (its *path*), and position ids are those of the unpacked prompt: the result is that of
the plain computation. Shapes: T tokens of the row, B prompts, R rows that are read off, N trie nodes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import torch

from xampler.models.label_tokens import TokenizedPrompt, common_length
from xampler.models.label_trie import LabelTrie, build_label_trie

# Fewer shared tokens cost more in copied keys and masked attention than computing them again.
MIN_SHARED_TOKENS = 16

Range = tuple[int, int]  # [start, stop) in the packed row


@dataclass(frozen=True)
class Attention:
    """One call of attention: the queries of ``rows`` see the keys of ``path``, as far as ``mask`` lets them.

    Without a mask, ``path`` is ``rows`` and attention is causal.
    """

    rows: Range
    path: tuple[Range, ...]
    mask: torch.Tensor | None  # [rows, path] float, 0 or -inf


@dataclass(frozen=True)
class Branch:
    """One prompt in the row: its own tokens [start, start + own), then its trie's nodes."""

    start: int
    own: int
    path: tuple[Range, ...]  # the prompt's tokens that stand further left
    trie: LabelTrie

    @property
    def stop(self) -> int:
        return self.start + self.own

    @property
    def end(self) -> int:
        return self.stop + len(self.trie.tokens)

    @property
    def context(self) -> tuple[Range, ...]:
        """All tokens of the prompt."""
        own: tuple[Range, ...] = ((self.start, self.stop),) if self.own else ()
        return _merge((*self.path, *own))

    @property
    def before(self) -> int:
        """Tokens of the prompt that stand further left."""
        return sum(stop - first for first, stop in self.path)

    @property
    def last(self) -> int:
        """Place of the prompt's last token."""
        return self.context[-1][1] - 1


@dataclass
class PackedBatch:
    """Some prompts in one row of tokens."""

    prompts: list[int] = field(default_factory=list)  # [B] numbers of the prompts
    branches: list[Branch] = field(default_factory=list)  # [B]
    tokens: list[int] = field(default_factory=list)  # [T]
    positions: list[int] = field(default_factory=list)  # [T]
    shared: int = 0  # tokens that sharing has saved
    padding: int = 0  # tokens behind all prompts, which nobody looks at

    def add(self, number: int, item: TokenizedPrompt, shared: int) -> None:
        """Append a prompt that has its first ``shared`` tokens in common with the last one."""
        trie = build_label_trie(item.tails)
        path = _first(self.branches[-1].context, shared) if shared else ()
        branch = Branch(len(self.tokens), len(item.context) - shared, path, trie)
        self.tokens += item.context[shared:] + trie.tokens
        self.positions += range(shared, len(item.context))
        self.positions += [len(item.context) + depth for depth in trie.depths]
        self.prompts.append(number)
        self.branches.append(branch)
        self.shared += shared

    def pad(self, tokens: int) -> None:
        """Fill the row up to ``tokens``; nothing may be added afterwards."""
        self.padding = tokens - len(self.tokens)
        self.tokens += [0] * self.padding
        self.positions += [0] * self.padding

    def rows(self) -> list[int]:
        """Places [R] that log-probabilities are read off, prompt by prompt: root, then nodes."""
        return [place for branch in self.branches for place in (branch.last, *range(branch.stop, branch.end))]

    def distinct(self) -> tuple[list[int], list[int]]:
        """Where each distinct token stands first, and which of these each place's token is."""
        numbers: dict[int, int] = {}
        sources = [numbers.setdefault(token, len(numbers)) for token in self.tokens]
        places = dict(zip(reversed(self.tokens), reversed(range(len(sources))), strict=True))
        return [places[token] for token in numbers], sources

    def attentions(
        self, dtype: torch.dtype, window: int | None = None, block: int | None = None
    ) -> list[Attention]:
        """Calls of attention that cover the row, their masks on the CPU.

        Args:
            dtype: of the masks.
            window: that of sliding-window attention.
            block: queries of a call at most, the trie's nodes aside; None: all of a prompt.
        """
        return [call for branch in self.branches for call in self._calls(branch, dtype, window, block)]

    def reads(self, dtype: torch.dtype, window: int | None = None) -> list[Attention]:
        """Calls of attention for the rows that are read off alone."""
        return [call for branch in self.branches for call in self._reads(branch, dtype, window)]

    def _calls(
        self, branch: Branch, dtype: torch.dtype, window: int | None, block: int | None
    ) -> Iterator[Attention]:
        """The branch's queries in blocks, the trie's nodes with the last one."""
        length = branch.own + len(branch.trie.tokens)
        block = block or max(branch.own, 1)  # none of its own: the trie alone
        first = 0
        if not branch.path and 0 < branch.own <= min(block, window or branch.own):
            yield Attention((branch.start, branch.stop), ((branch.start, branch.stop),), None)
            first = branch.own
        if first == length:
            return
        borders = [*range(first, branch.own, block)] or [branch.own]
        for start, stop in pairwise([*borders, length]):
            yield self._call(branch, start, stop, dtype, window)

    def _reads(self, branch: Branch, dtype: torch.dtype, window: int | None) -> Iterator[Attention]:
        """The prompt's last token, which may stand in another branch, and the trie's nodes."""
        length = branch.own + len(branch.trie.tokens)
        if not branch.own:
            mask = self._narrow(_causal_mask(1, branch.before, dtype), -1, branch.before, branch.path, window)
            yield Attention((branch.last, branch.last + 1), branch.path, mask)
        if length:
            yield self._call(branch, max(branch.own - 1, 0), length, dtype, window)

    def _call(
        self, branch: Branch, start: int, stop: int, dtype: torch.dtype, window: int | None
    ) -> Attention:
        """The branch's queries [start, stop), the trie's nodes counted behind its own tokens."""
        path = _merge((*branch.path, (branch.start, branch.start + stop)))
        if stop <= branch.own:
            mask = _causal_mask(stop - start, branch.before + stop, dtype)
        else:
            mask = _mask_behind(branch.own - start, branch.before + branch.own, branch.trie, dtype)
        mask = self._narrow(mask, start, branch.before, path, window)
        return Attention((branch.start + start, branch.start + stop), path, mask)

    def _narrow(
        self, mask: torch.Tensor, start: int, before: int, path: tuple[Range, ...], window: int | None
    ) -> torch.Tensor:
        """The mask of the path's places from ``before + start`` on, without what is out of the window."""
        if window is None or mask.shape[1] <= window:
            return mask
        return mask.clone().masked_fill_(self._out_of_window(start, before, path, window), -torch.inf)

    def _out_of_window(self, start: int, before: int, path: tuple[Range, ...], window: int) -> torch.Tensor:
        positions = torch.tensor([at for first, stop in path for at in self.positions[first:stop]])
        return positions[before + start :, None] - positions[None, :] >= window


def _causal_mask(rows: int, keys: int, dtype: torch.dtype) -> torch.Tensor:
    """Mask [rows, keys] for the last ``rows`` of ``keys`` tokens: a view of one that all share."""
    most_rows, most_keys = _power_of_two(rows), _power_of_two(keys)
    stairs = _stairs(most_rows, most_keys + most_rows, dtype)
    return stairs[most_rows - rows :, stairs.shape[1] - keys :]


def _mask_behind(rows: int, keys: int, trie: LabelTrie, dtype: torch.dtype) -> torch.Tensor:
    """Mask for the last ``rows`` of ``keys`` tokens and, behind them, the nodes of a trie."""
    nodes = len(trie.tokens)
    mask = torch.zeros(rows + nodes, keys + nodes, dtype=dtype)
    mask[:rows, :keys] = _causal_mask(rows, keys, dtype)
    mask[:rows, keys:] = -torch.inf
    mask[rows:, keys:] = _trie_mask(trie, dtype)
    return mask


@lru_cache(maxsize=32)
def _stairs(rows: int, keys: int, dtype: torch.dtype) -> torch.Tensor:
    blocked = torch.ones(rows, keys, dtype=torch.bool).triu_(keys - rows + 1)
    return torch.zeros(rows, keys, dtype=dtype).masked_fill_(blocked, -torch.inf)


@lru_cache(maxsize=256)
def _trie_mask(trie: LabelTrie, dtype: torch.dtype) -> torch.Tensor:
    """Mask [N, N]: a node sees itself and its ancestors."""
    nodes = len(trie.tokens)
    mask = torch.full((nodes, nodes), -torch.inf, dtype=dtype)
    for node in range(nodes):
        mask[node, trie.ancestors(node)] = 0
    return mask


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


def pack(
    items: Sequence[TokenizedPrompt],
    numbers: Sequence[int],
    tokens_per_batch: int,
    min_shared: int = MIN_SHARED_TOKENS,
) -> list[PackedBatch]:
    """Batches of about ``tokens_per_batch`` tokens, the largest first; a longer prompt has its own.

    The largest comes first so that memory runs out at once or never.
    """
    order = sorted(numbers, key=lambda number: items[number].context)
    batches = [PackedBatch()] if order else []
    previous: tuple[int, ...] = ()
    for number in order:
        item = items[number]
        shared = _shared(previous, item.context, batches[-1], min_shared)
        new = len(item.context) - shared + len(build_label_trie(item.tails).tokens)
        if batches[-1].tokens and len(batches[-1].tokens) + new > tokens_per_batch:
            batches.append(PackedBatch())
            shared = 0
        batches[-1].add(number, item, shared)
        previous = item.context
    return sorted(batches, key=lambda batch: len(batch.tokens), reverse=True)


def _shared(previous: tuple[int, ...], context: tuple[int, ...], batch: PackedBatch, min_shared: int) -> int:
    """Tokens to take from the last prompt: cut back to a border of its path rather than split off a few."""
    common = common_length(previous, context)
    taken = 0
    for first, stop in batch.branches[-1].context if common else ():
        length = stop - first
        if common < taken + length:
            return common if common - taken >= min_shared else taken
        taken += length
    return taken


def _first(path: tuple[Range, ...], tokens: int) -> tuple[Range, ...]:
    """The first ``tokens`` of a path."""
    kept: list[Range] = []
    for first, stop in path:
        if tokens <= 0:
            break
        kept.append((first, min(stop, first + tokens)))
        tokens -= stop - first
    return tuple(kept)


def _merge(path: tuple[Range, ...]) -> tuple[Range, ...]:
    """The same tokens in as few ranges as there can be."""
    merged: list[Range] = []
    for first, stop in path:
        if merged and merged[-1][1] == first:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((first, stop))
    return tuple(merged)
