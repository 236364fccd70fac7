"""Two exact ways to run a model over tokenised prompts: packed, and padded for models that cannot pack.

An engine cuts work into batches and turns a batch into log-likelihoods; which batches succeed and what
happens when memory runs out is the caller's. Shapes: L labels, R rows, H hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from xampler.models.cpu_linear import round_up
from xampler.models.fewer_rows import Savings
from xampler.models.label_tokens import TokenizedPrompt
from xampler.models.label_trie import LabelTrie, build_label_trie
from xampler.models.output_head import OutputHead
from xampler.models.packed_attention import PACKED_ATTENTION, packed
from xampler.models.packing import PackedBatch, pack


@dataclass(frozen=True)
class Batch:
    """Prompts to run together."""

    prompts: Sequence[int]  # their numbers
    computed_tokens: int
    shared_tokens: int  # tokens that did not have to be computed again
    padding_tokens: int  # of the computed ones
    work: object  # the engine's own


class Engine(Protocol):
    """One way to run a model."""

    def batches(
        self, items: Sequence[TokenizedPrompt], numbers: Sequence[int], tokens_per_batch: int
    ) -> list[Batch]:
        """Cut the prompts ``numbers`` of ``items`` into batches, the largest first."""

    def run(self, items: Sequence[TokenizedPrompt], batch: Batch) -> list[NDArray[np.float64]]:
        """Log-likelihoods [L] of each prompt of the batch, in nats."""


class PackedEngine:
    """Prompts in one row of tokens; shared prefixes and label tries computed once."""

    def __init__(self, model: PreTrainedModel, savings: Savings | None = None) -> None:
        """``savings``: layers to be computed for fewer rows; None: all are for all."""
        self.model = model
        self.head = OutputHead(model)
        self.savings = savings
        model.set_attn_implementation(PACKED_ATTENTION)

    def batches(
        self, items: Sequence[TokenizedPrompt], numbers: Sequence[int], tokens_per_batch: int
    ) -> list[Batch]:
        """Cut into batches, as :class:`Engine` says."""
        packed_batches = pack(items, numbers, tokens_per_batch)
        if self.model.device.type == "cpu":  # rather than in every layer
            for work in packed_batches:
                work.pad(round_up(len(work.tokens)))
        return [
            Batch(work.prompts, len(work.tokens), work.shared, work.padding, work) for work in packed_batches
        ]

    @torch.inference_mode()
    def run(self, items: Sequence[TokenizedPrompt], batch: Batch) -> list[NDArray[np.float64]]:
        """Log-likelihoods, as :class:`Engine` says."""
        work = batch.work
        assert isinstance(work, PackedBatch)
        device = self.model.device
        rows = torch.tensor(work.rows(), device=device)
        with self._fewer_rows(work, rows):
            hidden_1TH = self.model.get_decoder()(
                input_ids=torch.tensor([work.tokens], device=device),
                position_ids=torch.tensor([work.positions], device=device),
                use_cache=False,
            ).last_hidden_state
        hidden_RH = hidden_1TH[0, rows.to(hidden_1TH.device)]
        return _label_sums(self.head, hidden_RH, [branch.trie for branch in work.branches])

    @contextmanager
    def _fewer_rows(self, work: PackedBatch, rows: torch.Tensor) -> Iterator[None]:
        if self.savings is None:
            with packed(work):
                yield
            return
        firsts, sources = work.distinct()
        read_of = torch.zeros(len(work.tokens), dtype=torch.long, device=rows.device)
        read_of[rows] = torch.arange(len(rows), device=rows.device)
        with (
            packed(work, self.savings.last_index if self.savings.last else None),
            self.savings.first.only(torch.tensor(firsts), torch.tensor(sources)),
            self.savings.last.only(rows, read_of),
        ):
            yield


class PaddedEngine:
    """Sequences padded on the right: causal models see nothing of what stands further right.

    Slower, as every path of label tokens repeats its prompt, but nothing is asked of the model. It gets no
    mask either, since nothing in front of a token is ever padding.
    """

    def __init__(self, model: PreTrainedModel, alone: bool = False) -> None:
        """``alone``: never two sequences at once, for models whose result depends on the batch's length."""
        self.model = model
        self.head = OutputHead(model)
        self.alone = alone

    def batches(
        self, items: Sequence[TokenizedPrompt], numbers: Sequence[int], tokens_per_batch: int
    ) -> list[Batch]:
        """Cut into batches, as :class:`Engine` says."""
        sequences = {number: _sequences(items[number])[0] for number in numbers}
        widths = {number: max(map(len, sequences[number])) for number in numbers}
        batches: list[Batch] = []
        pending: list[int] = []
        rows = 0
        for number in sorted(numbers, key=lambda number: widths[number], reverse=True):
            new_rows = len(sequences[number])
            if pending and (rows + new_rows) * widths[pending[0]] > tokens_per_batch:
                batches.append(self._batch(pending, sequences))
                pending, rows = [], 0
            pending.append(number)
            rows += new_rows
        return [*batches, self._batch(pending, sequences)] if pending else batches

    def _batch(self, numbers: list[int], sequences: dict[int, list[tuple[int, ...]]]) -> Batch:
        lengths = [len(row) for number in numbers for row in sequences[number]]
        computed = sum(lengths) if self.alone else max(lengths) * len(lengths)
        return Batch(tuple(numbers), computed, 0, computed - sum(lengths), None)

    @torch.inference_mode()
    def run(self, items: Sequence[TokenizedPrompt], batch: Batch) -> list[NDArray[np.float64]]:
        """Log-likelihoods, as :class:`Engine` says."""
        rows: list[tuple[int, ...]] = []
        places: list[tuple[int, int]] = []
        for number in batch.prompts:
            own_rows, own_places = _sequences(items[number])
            places += [(len(rows) + row, token) for row, token in own_places]
            rows += own_rows
        hidden_RH = self._hidden(rows, places)
        tries = [build_label_trie(items[number].tails) for number in batch.prompts]
        return _label_sums(self.head, hidden_RH, tries)

    def _hidden(self, rows: list[tuple[int, ...]], places: list[tuple[int, int]]) -> torch.Tensor:
        if self.alone:
            states = [self._forward([row])[0] for row in rows]
            return torch.stack([states[row][token] for row, token in places])
        states_BTH = self._forward(rows)
        return states_BTH[[row for row, _ in places], [token for _, token in places]]

    def _forward(self, rows: list[tuple[int, ...]]) -> torch.Tensor:
        width = max(map(len, rows))
        padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self.model.device)
        states: torch.Tensor = self.model.get_decoder()(input_ids=padded, use_cache=False).last_hidden_state
        return states


def _sequences(item: TokenizedPrompt) -> tuple[list[tuple[int, ...]], list[tuple[int, int]]]:
    """Every path of label tokens behind the prompt, and where each row of the trie stands in them."""
    trie = build_label_trie(item.tails)
    length = len(item.context)
    leaves = [node for node in range(len(trie.tokens)) if node not in trie.parents]
    paths = [trie.ancestors(leaf) for leaf in leaves] or [[]]
    found = {node: (row, length + depth) for row, path in enumerate(paths) for depth, node in enumerate(path)}
    rows = [(*item.context, *(trie.tokens[node] for node in path)) for path in paths]
    return rows, [(0, length - 1), *(found[node] for node in range(len(trie.tokens)))]


def _label_sums(
    head: OutputHead, hidden_RH: torch.Tensor, tries: Sequence[LabelTrie]
) -> list[NDArray[np.float64]]:
    """Log-likelihoods [L] per trie; the rows of the tries follow one another in ``hidden_RH``."""
    starts = np.cumsum([0, *(1 + len(trie.tokens) for trie in tries)])
    rows = [int(start) + row for start, trie in zip(starts, tries, strict=False) for row in trie.step_rows]
    tokens = [token for trie in tries for token in trie.step_tokens]
    log_probs = head.log_probs(hidden_RH, rows, tokens).numpy()
    steps = np.split(log_probs, np.cumsum([len(trie.step_rows) for trie in tries])[:-1])
    return [
        np.array([own[list(label)].sum() for label in trie.label_steps])
        for own, trie in zip(steps, tries, strict=True)
    ]
