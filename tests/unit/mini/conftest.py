"""A made-up parallel corpus and mini models trained on it in seconds."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest

from xampler.mini.build import MiniModelsConfig, build_mini_models
from xampler.mini.encoder import EncoderConfig
from xampler.mini.figures import FiguresConfig
from xampler.mini.fine_tuning import FineTuningConfig
from xampler.mini.language_model import LanguageModelConfig
from xampler.mini.measure import MeasureConfig
from xampler.mini.prompt_data import PromptTrainingConfig
from xampler.mini.tokenizer import TokenizerConfig
from xampler.mini.vectors import VectorsConfig

SUBJECTS = {
    "sports": ("runner", "team", "coach", "goal"),
    "health": ("doctor", "fever", "nurse", "heart"),
    "travel": ("train", "hotel", "island", "guide"),
    "politics": ("king", "vote", "law", "treaty"),
}
VERBS = ("sees", "helps", "finds", "leaves", "keeps")
SPLITS = {"train": (0, 1, 2), "dev": (3,), "test": (4,)}  # by verb
# Ending of a language's words, and its way to say a sentence: exact ciphers of English would leave nothing
# that differs within a meaning.
LANGS = {
    "eng_Latn": ("", "the {subject} {verb} one more {subject}"),
    "aaa_Latn": ("ka", "{subject} {verb} the one"),
    "bbb_Latn": ("zo", "more {verb} {verb} {subject}"),
    "ccc_Latn": ("mi", "{subject} {subject} {subject} more {verb}"),
}


def made_up_sentence(lang: str, subject: str, verb: str) -> str:
    """English, or what a made-up language makes of it."""
    ending, frame = LANGS[lang]
    return " ".join(word + ending for word in frame.format(subject=subject, verb=verb).split())


def write_corpus(folder: Path) -> None:
    """The published SIB-200 layout: 4 labels, 80 meanings, 4 languages; the last has no test split."""
    for lang, (split, verbs) in itertools.product(LANGS, SPLITS.items()):
        if lang == "ccc_Latn" and split == "test":
            continue
        path = folder / "data" / "annotated" / lang / f"{split}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as lines:
            writer = csv.writer(lines, dialect="excel-tab", lineterminator="\n")
            writer.writerow(["index_id", "category", "text"])
            rows = [
                (verb * 100 + number, label, made_up_sentence(lang, subject, VERBS[verb]))
                for verb in verbs
                for number, (label, subject) in enumerate(
                    (label, subject) for label, subjects in SUBJECTS.items() for subject in subjects
                )
            ]
            writer.writerows(rows)


@pytest.fixture(scope="session")
def tiny_config() -> MiniModelsConfig:
    """Few steps, small shapes, no teacher."""
    return MiniModelsConfig(
        tokenizer=TokenizerConfig(vocab_size=400),
        vectors=VectorsConfig(folds=4, reduced=40),
        encoder=EncoderConfig(hidden=32, heads=2, feed_forward=32, steps=4, meanings_per_step=8, warm_up=2),
        language_model=LanguageModelConfig(hidden=64, feed_forward=32),
        prompts=PromptTrainingConfig(
            steps=3, prompts_per_step=4, most_demonstrations=3, clusters=(3,), warm_up=1
        ),
        figures=FiguresConfig(
            fine_tuning=FineTuningConfig(steps=2, queries_per_step=8, warm_up=1),
            measure=MeasureConfig(demonstrations=3, languages=2, queries=4, judgements=8, candidates=5),
        ),
        with_teacher=False,
    )


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up corpus on disk."""
    folder = tmp_path_factory.mktemp("sib200")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="session")
def mini_folder(
    corpus_folder: Path, tiny_config: MiniModelsConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Both models, built from the made-up corpus."""
    output = tmp_path_factory.mktemp("mini")
    build_mini_models(corpus_folder, output, seed=7, config=tiny_config)
    return output
