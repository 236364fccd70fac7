"""Log-likelihoods of label words after prompts: ours, the paper's way, lm-evaluation-harness, a plain loop.

Shapes: P prompts, L labels, B requests of a batch, T tokens, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from benchmarks import Measurement, Way, markdown_table, measure
from benchmarks.harness import NOT_INSTALLED, HarnessModel, has_harness
from xampler.core.prompt import Demonstration, build_prompt
from xampler.core.ranking import cosine_similarity, top_k
from xampler.core.task import Task
from xampler.mini.data import POOL_LANG, ParallelCorpus
from xampler.models.build import EncoderConfig, LanguageModelConfig, load_encoder, load_language_model
from xampler.models.label_tokens import common_length
from xampler.models.source import MINI_MODELS

_SIGNAL_QUERIES, _CANDIDATES = 60, 10
_TRANSLATED_QUERIES, _LANGUAGES = 12, 18
_PAPER_BATCHES = (8, 2)
_HARNESS_BATCHES: tuple[int | str, ...] = (1, 32, "auto")
# Coprime to the numbers of candidates and languages, so that every n-th prompt takes turns among them.
_EVERY_ONE_SHOT, _EVERY_MANY_SHOT = 29, 37
MALA_ROWS = 260_164

_LAYERS = 8


@dataclass(frozen=True)
class Shape:
    """Of a Llama with eight layers."""

    name: str
    hidden: int
    rows: int


SHAPES = (
    Shape("256 wide, 32,000 rows", 256, 32_000),
    # A token costs six times as much in the layers as in the output head, as it does in MaLA-500.
    Shape("512 wide, 8,000 rows", 512, 8_000),
)

_HEADER = (
    "prompts",
    "way",
    "timed",
    "prompts/s",
    "tokens/s",
    "CPU ms a prompt",
    "x paper's way",
    "x in CPU time",
    "off ours, nats",
)


@dataclass(frozen=True)
class Kind:
    """Prompts to measure, and how much of them the slow ways are given."""

    name: str
    prompts: list[str]
    every: int
    folder: Path = MINI_MODELS / "language_model"
    harness: tuple[int | str, ...] = _HARNESS_BATCHES


def run_scoring(pool: ParallelCorpus, tests: ParallelCorpus) -> str:
    """Measure every kind of prompts; a table in Markdown."""
    task = Task(name="sib200", labels=pool.labels)
    rows = []
    with TemporaryDirectory() as folder:
        for kind in _kinds(task, pool, tests, Path(folder)):
            ours = load_language_model(LanguageModelConfig(model=str(kind.folder), device="cpu"))
            tokens = np.array(ours.count_tokens(kind.prompts))
            rows += _rows(kind.name, measure(_ways(kind, task.label_words), kind.prompts), tokens)
    table = markdown_table(_HEADER, rows)
    return table if has_harness() else f"{table}\n\n{NOT_INSTALLED}"


def _kinds(task: Task, pool: ParallelCorpus, tests: ParallelCorpus, folder: Path) -> Iterator[Kind]:
    together = signal_prompts(task, pool, shared=True)
    own = signal_prompts(task, pool, shared=False)
    yield Kind("one-shot, each its own", own, _EVERY_ONE_SHOT)
    yield Kind("one-shot, shared", together, _EVERY_ONE_SHOT)
    for count, name in ((5, "five-shot"), (10, "ten-shot")):
        for shared, how in ((False, "each its own"), (True, "shared")):
            prompts = many_shot_prompts(task, pool, tests, count, shared=shared)
            yield Kind(f"{name}, {how}", prompts, _EVERY_MANY_SHOT)
    many_rows = folder / "many-rows"
    make_many_rows(many_rows)
    # Larger batches of the harness take several GB of logits.
    yield Kind(f"one-shot, {MALA_ROWS:,} rows", own, _EVERY_ONE_SHOT, many_rows, harness=(1,))
    for shape in SHAPES:
        random = folder / shape.name
        make_random(random, shape, pool)
        yield Kind(f"one-shot, {shape.name}", together, _EVERY_ONE_SHOT, random, harness=(1, 32))
    random = folder / SHAPES[0].name
    for shared, how in ((False, "each its own"), (True, "shared")):
        prompts = many_shot_prompts(task, pool, tests, 5, shared=shared)
        yield Kind(f"five-shot, {how}, {SHAPES[0].name}", prompts, _EVERY_MANY_SHOT, random, harness=(1, 32))


def make_many_rows(folder: Path) -> None:
    """The mini language model with as many rows of the vocabulary as MaLA-500 has, the new ones random."""
    mini = MINI_MODELS / "language_model"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(mini, dtype=torch.float32)
    model.resize_token_embeddings(MALA_ROWS, mean_resizing=False)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(mini).save_pretrained(folder)


def make_random(folder: Path, shape: Shape, pool: ParallelCorpus) -> None:
    """A Llama of that shape, random weights, with a tokenizer trained on the pool's texts."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.rows,
        hidden_size=shape.hidden,
        intermediate_size=8 * shape.hidden // 3,
        num_hidden_layers=_LAYERS,
        num_attention_heads=shape.hidden // 64,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=shape.rows, special_tokens=["<s>", "<unk>"], show_progress=False)
    tokenizer.train_from_iterator(pool.texts_S, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", unk_token="<unk>"
    ).save_pretrained(folder)


def _ways(kind: Kind, label_words: Sequence[str]) -> list[Way]:
    """The paper's own batch first, ours last."""
    ours, half = (
        load_language_model(LanguageModelConfig(model=str(kind.folder), device="cpu", dtype=dtype))
        for dtype in ("float32", "bfloat16")
    )
    model = AutoModelForCausalLM.from_pretrained(kind.folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(kind.folder)
    plain = PlainModel(model, tokenizer, label_words)
    papers = [
        Way(f"paper's, batch {size}", partial(plain.score_as_paper, batch=size), kind.every)
        for size in _PAPER_BATCHES
    ]
    harness = [
        Way(f"lm_eval, batch {size}", HarnessModel(model, tokenizer, label_words, size).score, kind.every)
        for size in (kind.harness if has_harness() else ())
    ]
    return [
        *papers,
        Way("plain loop", plain.score_one_by_one, kind.every),
        *harness,
        Way("xampler, bf16", lambda prompts: half.score_labels(prompts, label_words)),
        Way("xampler", lambda prompts: ours.score_labels(prompts, label_words)),
    ]


def _rows(kind: str, measured: Sequence[Measurement], tokens_P: NDArray[np.int64]) -> list[list[str]]:
    paper, ours = measured[0], measured[-1]
    return [
        [
            kind,
            one.way.name,
            str(one.texts),
            f"{1 / one.wall_s:,.1f}",
            f"{tokens_P[:: one.way.every].mean() / one.wall_s:,.0f}",
            f"{1000 * one.cpu_s:,.2f}",
            f"{paper.wall_s / one.wall_s:.1f}",
            f"{paper.cpu_s / one.cpu_s:.1f}",
            "" if one is ours else f"{one.deviation_from(ours):.0e}",
        ]
        for one in measured
    ]


def signal_prompts(task: Task, pool: ParallelCorpus, *, shared: bool) -> list[str]:
    """One-shot prompts: each of 60 queries after each of the candidates that the mini encoder proposes.

    Args:
        shared: candidates are the queries themselves, so that one is shown to ten queries on average, as
            where the whole pool is scored; else all sentences of the pool, so that few are shown twice.
    """
    rows = pool.rows_of(POOL_LANG)
    drawn = np.random.default_rng(0).choice(len(rows), size=_SIGNAL_QUERIES, replace=False)
    if shared:
        rows, drawn = rows[drawn], np.arange(_SIGNAL_QUERIES)
    texts = [pool.texts_S[row] for row in rows]
    vectors = load_encoder(EncoderConfig(model="mini", device="cpu")).encode(texts)
    itself = drawn[:, None] == np.arange(len(texts))[None, :]
    similarity = cosine_similarity(vectors[drawn], vectors)
    proposed = top_k(similarity, [f"{number:06}" for number in range(len(texts))], _CANDIDATES, itself)
    shown = demonstrations_of(task, pool, rows)
    return [
        build_prompt(task, texts[query], [shown[candidate]])
        for query, candidates in zip(drawn, proposed, strict=True)
        for candidate in candidates
    ]


def many_shot_prompts(
    task: Task, pool: ParallelCorpus, tests: ParallelCorpus, count: int, *, shared: bool
) -> list[str]:
    """The same queries in several languages, after random demonstrations.

    Args:
        shared: the translations of a query follow the same demonstrations, else each prompt its own.
    """
    rng = np.random.default_rng(1)
    langs = rng.choice(tests.langs, size=min(_LANGUAGES, len(tests.langs)), replace=False)
    meanings = rng.choice(len(tests.label_M), size=_TRANSLATED_QUERIES, replace=False)
    rows = {lang: tests.rows_of(lang) for lang in langs}
    shown = demonstrations_of(task, pool, pool.rows_of(POOL_LANG))
    prompts = []
    for meaning in meanings:
        drawn = rng.permutation(len(shown))[:count]
        for own in rows.values():
            if not shared:
                drawn = rng.permutation(len(shown))[:count]
            chosen = [shown[number] for number in drawn]
            translations = own[tests.meaning_S[own] == meaning]
            prompts += [build_prompt(task, tests.texts_S[row], chosen) for row in translations]
    return prompts


def demonstrations_of(task: Task, corpus: ParallelCorpus, rows: Iterable[int]) -> list[Demonstration]:
    """Sentences of a corpus with their labels' words."""
    return [
        Demonstration(
            corpus.texts_S[row], task.words_of(corpus.labels[corpus.label_M[corpus.meaning_S[row]]])
        )
        for row in rows
    ]


class PlainModel:
    """A language model as transformers makes it, asked in plain ways."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, label_words: Sequence[str]
    ) -> None:
        self.label_words = label_words
        self.tokenizer = tokenizer
        self.model = model.eval()

    @torch.inference_mode()
    def score_as_paper(self, prompts: Sequence[str], batch: int) -> NDArray[np.float64]:
        """Log-likelihoods [P, L] as the paper's harness computes them.

        One request per prompt and label, both encoded apart, the longest first in padded batches; logits
        and log-softmax over the vocabulary at every token.
        """
        requests = [
            (self.tokenizer(prompt)["input_ids"], self._encode_label(words))
            for prompt in prompts
            for words in self.label_words
        ]
        lengths = [len(context) + len(label) for context, label in requests]
        order = np.argsort(lengths, kind="stable")[::-1]
        scores = np.empty(len(requests))
        for start in range(0, len(order), batch):
            numbers = order[start : start + batch]
            scores[numbers] = self._score_batch([requests[number] for number in numbers])
        return scores.reshape(len(prompts), len(self.label_words))

    @torch.inference_mode()
    def score_one_by_one(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Log-likelihoods [P, L]: one forward per prompt and label, encoded together; no batch, no cache."""
        scores = []
        for prompt in prompts:
            context = self.tokenizer(prompt)["input_ids"]
            wholes = [self.tokenizer(f"{prompt} {words}")["input_ids"] for words in self.label_words]
            start = min(common_length(context, whole) for whole in wholes)
            scores.append([self._score_batch([(whole[:start], whole[start:])])[0] for whole in wholes])
        return np.array(scores)

    def _encode_label(self, words: str) -> list[int]:
        ids: list[int] = self.tokenizer(f" {words}", add_special_tokens=False)["input_ids"]
        return ids

    def _score_batch(self, requests: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        # Padding stands on the right, where a causal model does not look.
        rows = [torch.tensor([*context, *label][:-1]) for context, label in requests]
        tokens_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.model.device)
        log_probs_BTV = torch.log_softmax(self.model(tokens_BT, use_cache=False).logits, dim=-1)
        scores = []
        for log_probs_TV, (context, label) in zip(log_probs_BTV, requests, strict=True):
            places = range(len(context) - 1, len(context) - 1 + len(label))
            scores.append(float(log_probs_TV[places, label].sum()))
        return scores
