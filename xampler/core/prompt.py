"""Query and demonstrations to prompt text."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from xampler.config import Config
from xampler.core.ports import TokenCounter
from xampler.core.task import Task
from xampler.core.text import stable_hash


@dataclass(frozen=True)
class Demonstration:
    """A candidate placed in a prompt."""

    text: str
    label_words: str


class PromptConfig(Config):
    """Limits on the texts of a prompt, in the language model's tokens."""

    max_text_tokens: int | None = Field(default=None, ge=1)  # every text is cut to it; None: none is


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt within the model's length, and what it cost to get it there."""

    pieces: tuple[str, ...]  # the demonstrations', then the query's; joined, they are the prompt
    demonstrations_dropped: int
    texts_shortened: int

    @property
    def text(self) -> str:
        """The prompt."""
        return "".join(self.pieces)


def prompt_id(task: Task, config: PromptConfig, max_tokens: int) -> str:
    """Hash of everything beside query and demonstrations that shapes prompt and label words."""
    # Labels too: demonstrations are stored by label, so the words of each one must be known.
    limits = (str(config.max_text_tokens), str(max_tokens))
    return stable_hash(task.template, task.separator, *limits, *task.labels, *task.label_words)


def build_prompt(task: Task, query_text: str, demonstrations: Sequence[Demonstration]) -> str:
    """Demonstrations in the given order, then the query without its label.

    The label words follow the result after exactly one space.
    """
    return "".join(prompt_pieces(task, query_text, demonstrations))


def prompt_pieces(task: Task, query_text: str, demonstrations: Sequence[Demonstration]) -> tuple[str, ...]:
    """The prompt of :func:`build_prompt`, cut between its demonstrations and before the query.

    The cuts are before the first blank behind a demonstration's label words, if the template begins with
    words: there tokenizers part them, so that a demonstration has the same tokens wherever it is shown.
    """
    frame = task.template.removesuffix(" {label}")
    border = task.separator + frame.partition("{text}")[0]
    cut = max(border.find(" "), 0)
    shown = [f"{frame.replace('{text}', shot.text)} {shot.label_words}" for shot in demonstrations]
    whole = [*shown, frame.replace("{text}", query_text)]
    begun = [whole[0], *((task.separator + text)[cut:] for text in whole[1:])]
    return (*(text + border[:cut] for text in begun[:-1]), begun[-1])


def fit_prompts(
    task: Task,
    query_texts: Sequence[str],
    demonstrations: Sequence[Sequence[Demonstration]],
    model: TokenCounter,
    config: PromptConfig,
) -> list[FittedPrompt]:
    """Build each query's prompt within ``model.max_tokens``.

    Texts over ``config.max_text_tokens`` are cut first, by choice of the config and so not counted as
    shortened. If the whole is still too long, the least similar demonstrations (the first ones) are
    dropped; if the query with one demonstration is too long, both texts are shortened in equal parts.

    Raises:
        ValueError: not one list of demonstrations per query.
    """
    budget = model.max_tokens - 2 - max(model.count_tokens([f" {words}" for words in task.label_words]))

    def cut(text: str) -> str:
        return text if config.max_text_tokens is None else model.truncate(text, config.max_text_tokens)

    return [
        _fit(
            task,
            cut(query),
            [Demonstration(cut(shot.text), shot.label_words) for shot in shown],
            budget,
            model,
        )
        for query, shown in zip(query_texts, demonstrations, strict=True)
    ]


def _fit(
    task: Task,
    query_text: str,
    demonstrations: Sequence[Demonstration],
    budget: int,
    model: TokenCounter,
) -> FittedPrompt:
    kept = list(demonstrations)
    pieces = prompt_pieces(task, query_text, kept)
    while len(kept) > 1 and _too_long(pieces, budget, model):
        kept = kept[1:]
        pieces = prompt_pieces(task, query_text, kept)
    dropped = len(demonstrations) - len(kept)
    if not _too_long(pieces, budget, model):
        return FittedPrompt(pieces, dropped, 0)
    pieces, shortened = _shorten(task, query_text, kept, budget, model)
    return FittedPrompt(pieces, dropped, shortened)


def _too_long(pieces: Sequence[str], budget: int, model: TokenCounter) -> bool:
    prompt = "".join(pieces)
    # A token has at least one UTF-8 byte, so most prompts need no counting.
    return len(prompt.encode()) > budget and model.count_tokens([prompt])[0] > budget


def _shorten(
    task: Task, query_text: str, kept: Sequence[Demonstration], budget: int, model: TokenCounter
) -> tuple[tuple[str, ...], int]:
    """The pieces of the shortened texts' prompt, and how many of them lost something."""
    texts = [query_text, *(shot.text for shot in kept)]
    frame = build_prompt(task, "", [Demonstration("", shot.label_words) for shot in kept])
    share = max(1, (budget - model.count_tokens([frame])[0]) // (1 + len(kept)))
    while True:
        cut = [model.truncate(text, share) for text in texts]
        shown = [Demonstration(text, shot.label_words) for text, shot in zip(cut[1:], kept, strict=True)]
        pieces = prompt_pieces(task, cut[0], shown)
        if share == 1 or not _too_long(pieces, budget, model):
            return pieces, sum(short != text for short, text in zip(cut, texts, strict=True))
        share = max(1, share * 9 // 10)  # pieces can tokenise to more in place than by themselves
