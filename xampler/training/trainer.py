"""The library's trainer with what this project adds: figures of the work, and whole weights at ZeRO-3."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from sentence_transformers import SentenceTransformerTrainer
from torch.utils.data import DataLoader
from transformers.integrations.deepspeed import deepspeed_load_checkpoint

from xampler.training.deepspeed_engine import whole_weights
from xampler.training.throughput import Throughput


class RetrieverTrainer(SentenceTransformerTrainer):
    """Logs samples and tokens a second, and on GPUs memory and utilisation, with each loss."""

    throughput: Throughput | None = None

    def collect_features(
        self, inputs: dict[str, torch.Tensor | Any]
    ) -> tuple[list[dict[str, torch.Tensor]], torch.Tensor | None]:
        """The library's, counting what goes in."""
        features, labels = super().collect_features(inputs)
        if self.throughput is None:
            self.throughput = Throughput(self.model, self.args.world_size)
        self.throughput.count([column["attention_mask"] for column in features])
        return features, labels

    def get_train_dataloader(self) -> "DataLoader[Any]":
        """The library's, with a generator of its own.

        Iterating draws a seed. Drawn from the default generator, which a run that goes on has just restored,
        it would give that run other dropout than the unbroken one.
        """
        loader = super().get_train_dataloader()
        prepared: Any = loader  # by accelerate, around torch's own
        prepared.base_dataloader.generator = torch.Generator()
        return loader

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The library's, with the figures beside the loss."""
        if "loss" in logs and self.throughput is not None:
            logs = logs | self.throughput.figures()
        super().log(logs, start_time)

    def whole(self, *, change: bool = False) -> AbstractContextManager[None]:
        """While it lasts every rank has all weights; ``change``: what rank 0 does to them stays."""
        return whole_weights(self.model, change=change) if self._is_sharded() else nullcontext()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The library's, which at ZeRO-3 would write empty weights."""
        if not self._is_sharded():
            super().save_model(output_dir, _internal_call)
            return
        with self.whole():
            if self.args.should_save:
                self._save(output_dir)

    def _load_best_model(self) -> None:
        if self._is_sharded():
            deepspeed_load_checkpoint(self.model_wrapped, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _is_sharded(self) -> bool:
        return hasattr(next(self.model.parameters()), "ds_id")
