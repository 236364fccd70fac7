"""Memory of scoring with MaLA-500's vocabulary: ``python -m benchmarks.memory``.

Ten thousand different prompts by a model with a small trunk and 260,164 rows; the resident memory is read
as the work goes on. It must stay flat, and far below what the logits of a single batch would take.
"""

import itertools
import resource
import time
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
import typer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks import markdown_table
from xampler.models.causal_lm import CausalLanguageModel
from xampler.models.source import MINI_MODELS

_ROWS = 260_164
_LABELS = ("science/technology", "travel", "politics", "sports", "health", "entertainment", "geography")
_WORDS = "water team match final new city river train doctor market song island record price school"


def main(prompts: Annotated[int, typer.Option(min=10)] = 10_000) -> None:
    """Score the prompts in ten calls, and show the resident memory after each."""
    torch.set_num_threads(1)
    scorer = make_scorer()
    texts = random_prompts()
    scorer.score_labels(list(itertools.islice(texts, 100)), _LABELS)
    rows = []
    for call in range(10):
        started = time.perf_counter()
        scorer.score_labels(list(itertools.islice(texts, prompts // 10)), _LABELS)
        seconds = time.perf_counter() - started
        done = (call + 1) * (prompts // 10)
        rows.append(["score_labels", f"{done:,}", f"{resident_mb():,.0f}", f"{prompts / 10 / seconds:,.0f}"])
    typer.echo(markdown_table(("what", "prompts", "resident MB", "prompts/s"), rows))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tokens = scorer.statistics.tokens_computed / scorer.statistics.batches
    logits = tokens * _ROWS * 4 / 2**20
    typer.echo(f"\nmost at any time: {most:,.0f} MB; logits of a batch of mean size: {logits:,.0f} MB")


def make_scorer(rows: int = _ROWS) -> CausalLanguageModel:
    """A Llama of two layers, 64 wide, random weights, with the mini model's tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=2048,
    )
    tokenizer = AutoTokenizer.from_pretrained(MINI_MODELS / "language_model")
    return CausalLanguageModel(LlamaForCausalLM(config), tokenizer)


def random_prompts() -> Iterator[str]:
    """Different one-shot prompts of random words."""
    rng = np.random.default_rng(0)
    for number in itertools.count():
        words = rng.choice(_WORDS.split(), size=(2, 12))
        shown, query = (" ".join(row) for row in words)
        yield f'The topic of the news "{shown}" is sports\nThe topic of the news "{query} {number}" is'


def resident_mb() -> float:
    """Memory that this process holds now."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - not a file of ours
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    typer.run(main)
