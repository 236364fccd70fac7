"""A labeller in one folder: retriever, pool, prompt and the language model's name.

Written by ``promote``, read by MLflow (``_load_pyfunc``), by the label stage and by anyone else. No
code or pickle is in the folder: JSON, Parquet and safetensors only.

Shapes: C candidates, D dimensions, P prompts, L labels.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from xampler.config import Config, parse_config, read_yaml
from xampler.core.ports import ScoringStatistics
from xampler.core.prompt import Demonstration, FittedPrompt, PromptConfig, fit_prompts
from xampler.core.scoring import log_probs
from xampler.core.task import Task
from xampler.core.text import text_id
from xampler.errors import ModelError
from xampler.models.build import (
    EncoderConfig,
    LanguageModelConfig,
    load_encoder,
    load_language_model,
    scorer_id,
)
from xampler.models.index import CandidatePool, EncoderIndex

logger = logging.getLogger(__name__)

SPEC_FILE, POOL_FILE, VECTORS_FILE, RETRIEVER = (
    "labeller.yaml",
    "pool.parquet",
    "pool.safetensors",
    "retriever",
)
CODE = (".py", ".pkl", ".pickle", ".bin", ".pt", ".pth")  # run, or unpickled, by what opens them


class LabellerSpec(Config):
    """How the labeller's parts fit together."""

    task: Task
    pool_lang: str
    demonstrations: int
    prompt: PromptConfig
    language_model: LanguageModelConfig
    scorer_id: str  # of the language model that the labeller was evaluated with
    encoder: EncoderConfig  # `model` is replaced by the folder's own retriever


@dataclass(frozen=True)
class Labelled:
    """One text with its label."""

    label: str
    probabilities: dict[str, float]  # normalised over the task's labels
    demonstration_ids: list[str]  # of those shown; the last one stood next to the query
    demonstrations: list[str]  # their texts
    demonstrations_dropped: int  # retrieved, but the prompt was too long for them
    texts_shortened: int  # for the same reason, the query's own and its demonstrations'


class Labeller:
    """Label texts of any language with demonstrations from the pool."""

    def __init__(self, spec: LabellerSpec, pool: CandidatePool, index: EncoderIndex) -> None:
        self.spec = spec
        self._pool = pool
        self._index = index
        self.statistics = ScoringStatistics()  # of the language model, in the last call of label_texts
        if scorer_id(spec.language_model) != spec.scorer_id:
            logger.warning(
                "the language model %s is not the one that this labeller was evaluated with",
                spec.language_model.model,
            )

    def label_texts(self, texts: Sequence[str], langs: Sequence[str] | None = None) -> list[Labelled]:
        """Label each text; ``langs`` (codes as in the tables) keep a text from demonstrating itself.

        Raises:
            ModelError: the language model cannot be loaded.
        """
        if not texts:
            self.statistics = ScoringStatistics()
            return []
        codes = langs or [self.spec.pool_lang] * len(texts)
        ids = [text_id(self.spec.task.name, lang, text) for lang, text in zip(codes, texts, strict=True)]
        found = self._index.search(ids, texts, self.spec.demonstrations)
        positions = [[hit.position for hit in reversed(hits)] for hits in found]
        fitted = self._fit(texts, positions)
        log_prob_PL = self._score(fitted)
        return [self._describe(*row) for row in zip(log_prob_PL, positions, fitted, strict=True)]

    def predict(
        self,
        model_input: "str | Sequence[str] | pd.Series[str] | pd.DataFrame",
        params: dict[str, object] | None = None,
    ) -> pd.DataFrame:
        """MLflow's entry: a list, series or one-column frame of texts to labels and their probabilities."""
        labelled = self.label_texts(_as_texts(model_input))
        return pd.DataFrame(
            {
                "label": [item.label for item in labelled],
                "probability": [item.probabilities[item.label] for item in labelled],
                "probabilities": [item.probabilities for item in labelled],
                "demonstrations": [item.demonstrations for item in labelled],
            }
        )

    def _fit(self, texts: Sequence[str], positions: list[list[int]]) -> list[FittedPrompt]:
        model = load_language_model(self.spec.language_model)
        shown = [[self._show(i) for i in own] for own in positions]
        return fit_prompts(self.spec.task, texts, shown, model, self.spec.prompt)

    def _score(self, fitted: Sequence[FittedPrompt]) -> NDArray[np.float64]:
        model = load_language_model(self.spec.language_model)
        pieces = [prompt.pieces for prompt in fitted]
        log_likelihood_PL = model.score_pieces(pieces, self.spec.task.label_words)
        self.statistics = model.statistics
        return log_probs(log_likelihood_PL)

    def _show(self, position: int) -> Demonstration:
        return Demonstration(self._pool.texts[position], self.spec.task.words_of(self._pool.labels[position]))

    def _describe(
        self, log_prob_L: NDArray[np.float64], retrieved: list[int], prompt: FittedPrompt
    ) -> Labelled:
        labels = self.spec.task.labels
        shown = retrieved[prompt.demonstrations_dropped :]
        return Labelled(
            label=labels[int(log_prob_L.argmax())],
            probabilities=dict(zip(labels, np.exp(log_prob_L).tolist(), strict=True)),
            demonstration_ids=[self._pool.ids[i] for i in shown],
            demonstrations=[self._pool.texts[i] for i in shown],
            demonstrations_dropped=prompt.demonstrations_dropped,
            texts_shortened=prompt.texts_shortened,
        )


def save_labeller(folder: Path, spec: LabellerSpec, pool: CandidatePool, retriever: Path) -> None:
    """Write a labeller's folder; the pool is embedded with ``retriever`` (a sentence-transformers folder).

    Raises:
        ModelError: the retriever needs code of its own, which a labeller's folder never holds.
    """
    code = sorted(path.name for path in retriever.rglob("*") if path.suffix in CODE)
    if code:
        raise ModelError(
            f"{retriever}: {', '.join(code)} would be run by whoever loads the labeller, so it is not "
            "registered; start training from an encoder that transformers knows without remote code"
        )
    folder.mkdir(parents=True)
    shutil.copytree(retriever, folder / RETRIEVER)
    encoder = load_encoder(spec.encoder.model_copy(update={"model": str(retriever), "revision": None}))
    save_file({"candidate_emb": encoder.encode(list(pool.texts))}, str(folder / VECTORS_FILE))
    frame = pd.DataFrame({"id": pool.ids, "text": pool.texts, "label": pool.labels})
    frame.to_parquet(folder / POOL_FILE, index=False)
    (folder / SPEC_FILE).write_text(spec.model_dump_json(indent=1), encoding="utf-8")  # JSON is YAML


def read_spec(folder: Path) -> LabellerSpec:
    """The spec of a labeller's folder, without its models.

    Raises:
        ModelError: the folder holds no labeller.
    """
    path = folder / SPEC_FILE
    if not path.is_file():
        raise ModelError(
            f"{folder} holds no labeller ({SPEC_FILE} is missing); give one that `promote` registered"
        )
    return parse_config(LabellerSpec, read_yaml(path), str(path))


@cache
def load_labeller(folder: Path) -> Labeller:
    """Open a labeller's folder; kept for the life of the process.

    Raises:
        ModelError: the folder holds no labeller.
    """
    spec = read_spec(folder)
    frame = pd.read_parquet(folder / POOL_FILE)
    pool = CandidatePool(tuple(frame["id"]), tuple(frame["text"]), tuple(frame["label"]))
    # Code that lies in the folder is never run, whatever its spec says.
    own = {"model": str(folder / RETRIEVER), "revision": None, "trust_remote_code": False}
    encoder = spec.encoder.model_copy(update=own)
    candidate_emb_CD = load_file(str(folder / VECTORS_FILE))["candidate_emb"]
    return Labeller(spec, pool, EncoderIndex(pool, candidate_emb_CD, load_encoder(encoder)))


def _load_pyfunc(path: str) -> Labeller:
    """MLflow calls this with the folder; the name is MLflow's."""
    return load_labeller(Path(path))


def _as_texts(model_input: "str | Sequence[str] | pd.Series[str] | pd.DataFrame") -> list[str]:
    if isinstance(model_input, str):
        return [model_input]
    if isinstance(model_input, pd.DataFrame):
        column = "text" if "text" in model_input.columns else model_input.columns[0]
        return [str(text) for text in model_input[column]]
    return [str(text) for text in model_input]
