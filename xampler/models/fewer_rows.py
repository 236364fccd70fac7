"""The first and the last layer for fewer rows than a batch has tokens.

*First*: where positions come in with attention alone, what the first layer projects to queries, keys and
values depends on the token alone, so each distinct token of a batch is projected once. *Last*: nothing
follows it but the output head, which looks at a few rows; all tokens' keys and values are needed, but
queries, what attention gives and the feed-forward part only there. The modules get fewer rows of their
input, and what they give is spread over all rows again, so a model's own code need not know.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

# As Llama and its many relatives, GPT-NeoX and GPT-2 name them.
_PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_ROW_BY_ROW = ("mlp", "self_attn.q_proj", "self_attn.o_proj", "attention.dense", "attn.c_proj")


class FewerRows:
    """Modules of a layer that can be computed for some rows of their input; by themselves for all."""

    def __init__(self, layer: nn.Module, names: Sequence[str]) -> None:
        self._rows: tuple[Tensor, Tensor] | None = None
        self._hooks: list[RemovableHandle] = []
        for name, module in layer.named_modules():
            if name in names:
                self._hooks += [
                    module.register_forward_pre_hook(self._take),
                    module.register_forward_hook(self._spread),
                ]

    @contextmanager
    def only(self, rows: Tensor, sources: Tensor) -> Iterator[None]:
        """Compute ``rows`` alone inside; row t of the output is that of ``rows[sources[t]]``."""
        self._rows = rows, sources
        try:
            yield
        finally:
            self._rows = None

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def remove(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()

    def _take(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self._rows is None:
            return inputs
        states, *others = inputs
        return states[:, self._rows[0].to(states.device)], *others

    def _spread(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self._rows is None:
            return output
        if not isinstance(output, Tensor):
            raise TypeError(f"{type(module).__name__} gives more than one tensor")
        return output[:, self._rows[1].to(output.device)]


@dataclass(frozen=True)
class Savings:
    """What of a model can do with fewer rows."""

    first: FewerRows
    last: FewerRows
    last_index: int

    def remove(self) -> None:
        """Leave the model as it was."""
        self.first.remove()
        self.last.remove()


def find_savings(model: PreTrainedModel) -> Savings | None:
    """Savings to try, None where there are none."""
    config = model.config.get_text_config()
    count = config.num_hidden_layers
    stacks = [
        part
        for part in model.get_decoder().children()
        if isinstance(part, nn.ModuleList) and len(part) == count
    ]
    if len(stacks) != 1:
        return None
    # In a model of one layer the projections are the last layer's own.
    rotary = getattr(config, "rope_parameters", None) is not None and count > 1
    first = FewerRows(stacks[0][0], _PROJECTIONS if rotary else ())
    last = FewerRows(stacks[0][-1], _ROW_BY_ROW)
    return Savings(first, last, count - 1) if first or last else None
