"""lm-evaluation-harness (PyPI ``lm_eval``) as a peer, where it is installed.

Shapes: P prompts, L labels.
"""

from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MOST = 16  # a larger batch of ten-shot prompts takes several GB of logits
NOT_INSTALLED = "lm-evaluation-harness is left out: it is not installed (pip install 'xampler[bench]')"


def has_harness() -> bool:
    """Whether the package can be imported."""
    return find_spec("lm_eval") is not None


class HarnessModel:
    """A model as its ``HFLM`` class runs it: one request per prompt and label, in padded batches."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        label_words: Sequence[str],
        batch_size: int | str,
    ) -> None:
        from lm_eval.models.huggingface import HFLM

        self.label_words = label_words
        self.model = HFLM(
            pretrained=model.eval(),
            tokenizer=tokenizer,
            backend="causal",
            device=str(model.device),
            batch_size=batch_size,
            max_batch_size=_MOST,
        )

    def score(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Log-likelihoods [P, L] of the label words behind one space."""
        from lm_eval.api.instance import Instance

        requests = [
            Instance(request_type="loglikelihood", doc={}, arguments=(prompt, f" {words}"), idx=0)
            for prompt in prompts
            for words in self.label_words
        ]
        with redirect_stdout(StringIO()):  # it prints the batch size that it finds
            answers = self.model.loglikelihood(requests, disable_tqdm=True)
        if self.model.batch_size == "auto":
            # Found anew at each call, which a few prompts could not make up for.
            self.model.batch_size_per_gpu = min(self.model.batch_sizes.values())
        return np.array([score for score, _ in answers]).reshape(len(prompts), len(self.label_words))
