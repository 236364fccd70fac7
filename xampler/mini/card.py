"""Model cards: what the models are, how they were made, and what they are worth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from xampler.mini.figures import SplitFigures
from xampler.mini.measure import Share

_FRONT = """---
license: cc-by-sa-4.0
library_name: {library}
language: multilingual
---
"""

_DATA = """## Data and licence

Trained on the training split of SIB-200 (Adelani et al. 2023, arXiv:2309.07445): {meanings} sentences in
{languages} languages. SIB-200's sentences come from FLORES-200 (NLLB Team 2022, arXiv:2207.04672), CC BY-SA
4.0; its N'Ko sentences from the N'Ko FLORES files. No dev or test text took part in training. The weights are
shared under the same terms, CC BY-SA 4.0; the code that made them is Apache-2.0. {teacher}
Made by `xampler mini build --data <SIB-200 folder>`, seed {seed}.
"""

_TEACHER = """How alike the
English training sentences are was taken from all-MiniLM-L6-v2 (Apache-2.0).
"""

_LIMITS = """## What it must not be used for

It stands in for a real model on machines without one, so that the method can be run, tested and
demonstrated. It knows {meanings} news and encyclopedia sentences per language and nothing else: no facts, no
other domains, no long texts. Do not label real data with it, do not compare languages by it, do not quote its
accuracy as the method's, and do not take any decision about people from it. {extra}
"""

ENCODER_TEXT = """# Mini encoder

An XLM-R with one layer, {parameters} parameters, weights in fp16, for `AutoModel` and
`SentenceTransformer` (mean pooling, cosine). Token vectors in closed form from the counts of tokens over
parallel sentences (out-of-fold, then linear discriminant analysis of meaning against language); the layer is
refined to find translations (InfoNCE). No labels took part.
"""

LANGUAGE_MODEL_TEXT = """# Mini language model

A Llama with {layers} layers, {parameters} parameters, weights in fp16, for `AutoModelForCausalLM`. It
answers prompts of the form `The topic of the news "<text>" is <label>`, one per line, by weighing the
demonstrations; it starts as a constructed vote and is trained on prompts whose answer stands in the
demonstrations, or for {named:.0%} of them in the topic itself (true labels of {labelled:.0%} of the training
sentences). Cut texts to {text_tokens} tokens and show up to {demonstrations} demonstrations, the most
similar last.
"""


def encoder_card(facts: Mapping[str, object], figures: Mapping[str, SplitFigures]) -> str:
    """The card of the encoder; ``figures`` by split."""
    parts = [_FRONT.format(library="sentence-transformers"), ENCODER_TEXT, _DATA, _LIMITS]
    return _join(parts, {**facts, "extra": ""}, _retrieval_table(figures))


def language_model_card(facts: Mapping[str, object], figures: Mapping[str, SplitFigures]) -> str:
    """The card of the language model; ``figures`` by split."""
    parts = [_FRONT.format(library="transformers"), LANGUAGE_MODEL_TEXT, _DATA, _LIMITS]
    extra = "It does not write text."
    return _join(parts, {**facts, "extra": extra}, _prompt_table(figures))


def write_card(folder: Path, text: str) -> None:
    """Put a card beside its model."""
    (folder / "README.md").write_text(text, encoding="utf-8")


def _join(parts: list[str], facts: Mapping[str, object], table: str) -> str:
    values = {**facts, "teacher": _TEACHER if facts["with_teacher"] else ""}
    front, about, data, limits = (part.format(**values) for part in parts)
    return "\n".join([front + about, data, table, limits])


def _retrieval_table(figures: Mapping[str, SplitFigures]) -> str:
    lines = [
        "## Measured",
        "",
        "English training sentences retrieved by cosine for sentences of each split, in %: English / mean of",
        "the other languages. *Vote*: the commonest label of the ten nearest is the query's. *Same label*:",
        "share of the ten. *Parallel*: the nearest English sentence of the split is the translation.",
        "Fine-tuned: on the English training labels, to show what the encoder can learn; it ships untrained.",
        "",
        "| split | languages | encoder | vote | same label | parallel |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {split} | {measured.languages} | {encoder} | {_pair(found.vote)} | {_pair(found.same_label)} "
        f"| {_pair(found.parallel)} |"
        for split, measured in figures.items()
        for encoder, found in measured.retrieval.items()
    ]
    return "\n".join([*lines, ""])


def _prompt_table(figures: Mapping[str, SplitFigures]) -> str:
    lines = [
        "## Measured",
        "",
        "Accuracy in %, English / mean of the other languages of a sample, by choice of demonstrations:",
        "",
        "| split | queries | demonstrations | accuracy |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {split} | {measured.prompt_queries} | {name} | {_pair(accuracy)} |"
        for split, measured in figures.items()
        for name, accuracy in measured.prompts.items()
    ]
    lines += ["", "One-shot prompts, all languages: share answered rightly in %", ""]
    lines += ["| split | demonstration has the query's label | another |", "|---|---|---|"]
    for split, measured in figures.items():
        judged = measured.judgements
        lines.append(f"| {split} | {100 * judged.right_label:.1f} | {100 * judged.wrong_label:.1f} |")
    return "\n".join([*lines, ""])


def _pair(share: Share) -> str:
    return f"{100 * share.english:.1f} / {100 * share.others:.1f}"
