"""Scoring at MaLA-500's shape: budgets of tokens, kinds of prompts beside the peers, and prompts' lengths.

Shapes: P prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks import Way, markdown_table
from benchmarks.gpu.device import (
    OUT_OF_MEMORY,
    DeviceMeasurement,
    free_memory,
    in_gib,
    measure_on,
    measured_ceiling,
)
from benchmarks.gpu.shapes import Setting, load_tokenizer, make_llama, with_same_weights
from benchmarks.harness import NOT_INSTALLED, HarnessModel, has_harness
from benchmarks.scoring import PlainModel, demonstrations_of
from xampler.core.prompt import build_prompt
from xampler.core.task import Task
from xampler.models.causal_lm import CausalLanguageModel

_GROUP = 18  # prompts that share their demonstrations
_EVERY = 37
_ROUNDS = 3
_PAPER_BATCH = 8
_HARNESS_BATCHES = (1, 32)
_RATES = ("prompts/s", "tokens/s", "TFLOP a prompt", "TFLOP/s", "of the ceiling", "most memory, GiB")
_BUDGETS = ("prompts", "tokens per batch", *_RATES)
_KINDS = ("prompts", "way", "timed", *_RATES, "x paper's way", "off ours, nats")
_LENGTHS = ("model", "prompts", "tokens a prompt", "tokens x layers/s", *_RATES)

Result = DeviceMeasurement | None  # None: memory ended


@dataclass(frozen=True)
class Kind:
    """Prompts of one number of demonstrations."""

    name: str
    prompts: list[str]
    tokens_P: NDArray[np.int64]


@dataclass(frozen=True)
class Subject:
    """The model that all ways run."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    label_words: Sequence[str]

    def ours(self, budget: int | None = None) -> Way:
        """With a budget of tokens per batch; None: the device's own."""
        own = with_same_weights(self.model)
        scorer = CausalLanguageModel(own, self.tokenizer, tokens_per_batch=budget)
        return Way("xampler", partial(scorer.score_labels, label_words=self.label_words))

    def peers(self) -> list[Way]:
        """The paper's first."""
        plain = PlainModel(with_same_weights(self.model), self.tokenizer, self.label_words)
        paper = partial(plain.score_as_paper, batch=_PAPER_BATCH)
        harness = [
            Way(
                f"lm_eval, batch {size}",
                HarnessModel(plain.model, self.tokenizer, self.label_words, size).score,
                _EVERY,
            )
            for size in (_HARNESS_BATCHES if has_harness() else ())
        ]
        return [Way(f"paper's, batch {_PAPER_BATCH}", paper, _EVERY), *harness]


def run_scoring(setting: Setting) -> str:
    """Budgets first, then every kind of prompts at the best one; two tables in Markdown."""
    subject = _subject(setting)
    own, shared = (
        [_kind(setting, subject, *size, shared=shared) for size in setting.shape.prompts]
        for shared in (False, True)
    )
    tried: dict[tuple[str, int], Result] = {}
    cells = []
    for kind in own:
        for budget in setting.shape.budgets:
            result = measure_on(setting.device, subject.ours(budget), kind.prompts, rounds=1)
            tried[kind.name, budget] = result
            cells.append([kind.name, f"{budget:,}", *_budget_cells(setting, kind, result)])
    budgets = markdown_table(_BUDGETS, cells)
    best = best_budget(tried)
    if best is None:
        return budgets
    rows = [row for kind in (*own, *shared) for row in _kind_rows(setting, subject, kind, best)]
    caption = f"{best:,} tokens per batch, the peers on every {_EVERY}th prompt:"
    tables = f"{budgets}\n\n{caption}\n\n{markdown_table(_KINDS, rows)}"
    return tables if has_harness() else f"{tables}\n\n{NOT_INSTALLED}"


def run_lengths(setting: Setting) -> str:
    """Models of which one has fewer layers and longer prompts, about the same work; a table in Markdown."""
    rows = []
    for layers, demonstrations, number in setting.shape.lengths:
        subject = _subject(setting, layers)
        kind = _kind(setting, subject, demonstrations, number, shared=False)
        result = measure_on(setting.device, subject.ours(), kind.prompts, _ROUNDS)
        rows.append([f"{layers} layers", kind.name, *_length_cells(setting, layers, kind, result)])
        del subject
        free_memory()
    return markdown_table(_LENGTHS, rows)


def task_of(setting: Setting) -> Task:
    """SIB-200's, with its labels as label words."""
    return Task(name="sib200", labels=setting.pool.labels)


def make_prompts(setting: Setting, demonstrations: int, number: int, *, shared: bool) -> list[str]:
    """Prompts after random sentences of all languages.

    Args:
        shared: eighteen prompts each follow the same demonstrations; else no two begin with the same one,
            as long as there are sentences.
    """
    task, rng = task_of(setting), np.random.default_rng(1)
    shown = [
        demonstration
        for corpus in (setting.pool, setting.tests)
        for demonstration in demonstrations_of(task, corpus, range(len(corpus.texts_S)))
    ]
    firsts = rng.permutation(len(shown))
    queries = np.resize(rng.permutation(len(setting.tests.texts_S)), number)
    prompts = []
    group = _GROUP if shared else 1
    for start in range(0, number, group):
        drawn = [firsts[start // group % len(firsts)], *rng.choice(len(shown), demonstrations - 1)]
        chosen = [shown[each] for each in drawn]
        own = queries[start : start + group]
        prompts += [build_prompt(task, setting.tests.texts_S[query], chosen) for query in own]
    return prompts


def best_budget(tried: dict[tuple[str, int], Result]) -> int | None:
    """The budget of the least time for a prompt of each kind, of those with which memory sufficed.

    Args:
        tried: by kind of prompts and budget.
    """
    seconds = dict.fromkeys((budget for _, budget in tried), 0.0)
    for (_, budget), result in tried.items():
        seconds[budget] += np.inf if result is None or result.ran_out else result.measured.wall_s
    best = min(seconds, key=lambda budget: seconds[budget])
    return best if np.isfinite(seconds[best]) else None


def _subject(setting: Setting, layers: int | None = None) -> Subject:
    model = make_llama(setting.shape.llama, setting.device, torch.bfloat16, layers)
    return Subject(model, load_tokenizer(), task_of(setting).label_words)


def _kind(setting: Setting, subject: Subject, demonstrations: int, number: int, *, shared: bool) -> Kind:
    prompts = make_prompts(setting, demonstrations, number, shared=shared)
    tokens_P = np.array([len(ids) for ids in subject.tokenizer(prompts)["input_ids"]])
    return Kind(f"{demonstrations}-shot, {'shared' if shared else 'each its own'}", prompts, tokens_P)


def _kind_rows(setting: Setting, subject: Subject, kind: Kind, budget: int) -> list[list[str]]:
    """The peers first, ours last."""
    ways = [*subject.peers(), subject.ours(budget)]
    results = [measure_on(setting.device, way, kind.prompts, _ROUNDS) for way in ways]
    paper, ours = results[0], results[-1]
    rows = []
    for way, result in zip(ways, results, strict=True):
        if result is None:
            rows.append([kind.name, way.name, OUT_OF_MEMORY, *[""] * (len(_KINDS) - 3)])
            continue
        times = "" if paper is None else f"{paper.measured.wall_s / result.measured.wall_s:.1f}"
        off = "" if ours is None or ours is result else f"{result.measured.deviation_from(ours.measured):.0e}"
        timed = str(result.measured.texts)
        rows.append([kind.name, way.name, timed, *_rates(setting, kind, result), times, off])
    return rows


def _budget_cells(setting: Setting, kind: Kind, result: Result) -> list[str]:
    if result is None or result.ran_out:
        return [OUT_OF_MEMORY, *[""] * (len(_RATES) - 1)]
    return _rates(setting, kind, result)


def _length_cells(setting: Setting, layers: int, kind: Kind, result: Result) -> list[str]:
    mean = kind.tokens_P.mean()
    if result is None:
        return [f"{mean:.0f}", OUT_OF_MEMORY, *[""] * len(_RATES)]
    return [
        f"{mean:.0f}",
        f"{layers * mean / result.measured.wall_s:,.0f}",
        *_rates(setting, kind, result),
    ]


def _rates(setting: Setting, kind: Kind, result: DeviceMeasurement) -> list[str]:
    """Cells of ``_RATES``; tokens are those of the prompts, shared ones counted each time."""
    wall_s = result.measured.wall_s
    return [
        f"{1 / wall_s:,.1f}",
        f"{kind.tokens_P[:: result.measured.way.every].mean() / wall_s:,.0f}",
        f"{result.flops / 1e12:,.3g}",
        f"{result.flops_per_s / 1e12:,.3g}",
        f"{result.flops_per_s / measured_ceiling(setting):.0%}",
        in_gib(result.peak_gib),
    ]
