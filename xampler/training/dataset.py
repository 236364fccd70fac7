"""Judged queries to the rows that a loss reads: an endless stream in a fixed order.

Any number of ranks sees the same steps, and a run that goes on from a checkpoint sees the rows that come
after it.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import datasets

from xampler.core.pairing import TRAIN
from xampler.errors import TrainingError
from xampler.training.recipe import ContrastiveRecipe, DistillRecipe, InfoNceRecipe, Recipe
from xampler.training.shards import Candidate, JudgedQuery, shuffled, stream_queries

SIZE_TRIALS = 20
MAX_FAILURES = 100

Row = dict[str, object]
Epoch = Callable[[], Iterator[JudgedQuery]]


@dataclass(frozen=True)
class RowPlan:
    """The rows of a run: their number a step, and how many steps."""

    batch_size: int  # over all ranks and micro-batches
    steps: int
    queries: int  # that give rows
    columns: datasets.Features
    warnings: tuple[str, ...] = ()  # why a step has fewer rows than the recipe asks for


def plan_rows(epoch: Epoch, recipe: Recipe, parts: int) -> RowPlan:
    """Read one epoch through and settle batch size and steps.

    A step has fewer rows than the recipe asks for where the queries do not allow that many without
    conflict, or its ``parts`` (ranks times micro-batches) cannot share them equally.

    Raises:
        TrainingError: no query has what the loss needs, or a part would have no row.
    """
    usable = [0, 0]
    first: list[JudgedQuery] = []
    for query in epoch():
        count = _rows_of(query, recipe)
        usable = [usable[0] + (count > 0), usable[1] + count]
        if count and len(first) < recipe.shuffle_buffer:
            first.append(query)
    if not usable[0]:
        raise TrainingError(_needs(recipe))
    wanted = recipe.batch_size
    if not isinstance(recipe, ContrastiveRecipe):
        # The trial has its own generator: what is drawn later depends on the recipe alone.
        wanted = _conflict_free_size(first, recipe, random.Random(recipe.seed))
    if wanted < parts:
        raise TrainingError(
            f"{parts} ranks and micro-batches cannot share a step of {wanted} rows; give fewer"
        )
    batch_size = wanted - wanted % parts
    rows = usable[1]
    steps = recipe.steps or math.ceil((recipe.epochs or 1) * rows / batch_size)
    warnings = _why_fewer(recipe.batch_size, wanted, batch_size, parts)
    return RowPlan(batch_size, steps, usable[0], _columns(recipe), warnings)


def training_rows(
    epoch: Epoch, recipe: Recipe, plan: RowPlan, first_step: int = 0
) -> "datasets.IterableDataset":
    """The rows of steps ``first_step`` to the last, drawn as they are read."""
    return datasets.IterableDataset.from_generator(
        partial(draw_rows, epoch, recipe, plan, first_step), features=plan.columns
    )


def draw_rows(epoch: Epoch, recipe: Recipe, plan: RowPlan, first_step: int = 0) -> Iterator[Row]:
    """The rows themselves; those before ``first_step`` are drawn and left out, so the order is the same.

    Raises:
        TrainingError: no batch without conflict can be put together.
    """
    generator = random.Random(recipe.seed)
    epoch = _kept_if_small(epoch, recipe.shuffle_buffer)
    if isinstance(recipe, ContrastiveRecipe):
        rows = _pairs(epoch, recipe, generator)
    else:
        rows = _batches(_endless(epoch, recipe, generator), recipe, plan, generator)
    wanted = islice(rows, plan.steps * plan.batch_size)
    for number, row in enumerate(wanted):
        thinned = _drop_words(row, recipe.word_dropout, generator)
        if number >= first_step * plan.batch_size:
            yield thinned


def training_queries(shards: str, recipe: Recipe) -> Epoch:
    """One epoch of the training queries, as often as it is asked for."""
    return lambda: stream_queries(shards, TRAIN, recipe)


def _why_fewer(asked: int, free_of_conflict: int, batch_size: int, parts: int) -> tuple[str, ...]:
    if batch_size == asked:
        return ()
    reason = (
        "with more, a row would hold another one's query or positive"
        if free_of_conflict < asked
        else f"as many as {parts} ranks and micro-batches share equally"
    )
    return (f"steps of {batch_size} rows in place of batch_size {asked}: {reason}",)


def _rows_of(query: JudgedQuery, recipe: Recipe) -> int:
    """Rows that the query gives in an epoch; 0 if it lacks what the loss needs."""
    match recipe:
        case ContrastiveRecipe():
            return len(query.positives) + len(query.negatives)
        case InfoNceRecipe():
            return int(bool(query.positives) and len(query.negatives) >= recipe.hard_negatives)
        case DistillRecipe():
            enough = len(query.candidates) >= recipe.candidates
            return int(enough and bool(query.positives) and bool(query.negatives))


def _needs(recipe: Recipe) -> str:
    match recipe:
        case ContrastiveRecipe():
            return "there is no train pair to learn from; run `mine` with more queries"
        case InfoNceRecipe():
            return (
                f"no query has both a positive and {recipe.hard_negatives} negative candidates: nothing to "
                "contrast; propose more candidates or give fewer hard_negatives"
            )
        case DistillRecipe():
            return (
                f"no query has {recipe.candidates} candidates with a positive and a negative among them; "
                "propose more candidates or give fewer in the recipe"
            )


def _columns(recipe: Recipe) -> datasets.Features:
    text = datasets.Value("string")
    match recipe:
        case ContrastiveRecipe():
            return datasets.Features({"sentence1": text, "sentence2": text, "label": datasets.Value("int64")})
        case InfoNceRecipe():
            negatives = {f"negative_{number}": text for number in range(1, recipe.hard_negatives + 1)}
            return datasets.Features({"anchor": text, "positive": text} | negatives)
        case DistillRecipe():
            others = {f"candidate_{number}": text for number in range(3, recipe.candidates + 1)}
            label = {"label": datasets.List(datasets.Value("float32"))}
            return datasets.Features({"anchor": text, "positive": text, "negative": text} | others | label)


def _kept_if_small(epoch: Epoch, buffer_size: int) -> Epoch:
    """What the buffer would hold anyway is read once."""
    first = list(islice(epoch(), buffer_size + 1))
    return epoch if len(first) > buffer_size else lambda: iter(first)


def _endless(epoch: Epoch, recipe: Recipe, generator: random.Random) -> Iterator[JudgedQuery]:
    while True:
        usable = (query for query in epoch() if _rows_of(query, recipe))
        yield from shuffled(usable, recipe.shuffle_buffer, generator)


def _pairs(epoch: Epoch, recipe: ContrastiveRecipe, generator: random.Random) -> Iterator[Row]:
    """All pairs, epoch after epoch; those of ``shuffle_buffer`` queries are mixed."""
    while True:
        queries = epoch()
        while block := list(islice(queries, recipe.shuffle_buffer)):
            pairs: list[Row] = [
                {"sentence1": query.text, "sentence2": candidate.text, "label": label}
                for query in block
                for label, candidates in ((1, query.positives), (0, query.negatives))
                for candidate in candidates
            ]
            generator.shuffle(pairs)
            yield from pairs


def _conflict_free_size(
    usable: list[JudgedQuery], recipe: InfoNceRecipe | DistillRecipe, generator: random.Random
) -> int:
    """The most rows, up to the recipe's, that conflict-free batches of these queries reach reliably."""
    wanted = recipe.batch_size
    sizes = []
    for _ in range(SIZE_TRIALS):
        batch = _Batch(recipe, generator)
        for query in generator.sample(usable, len(usable)):
            if len(batch.rows) == wanted:
                break
            batch.take(query)
        sizes.append(len(batch.rows))
    return min(sizes)


def _batches(
    stream: Iterator[JudgedQuery],
    recipe: InfoNceRecipe | DistillRecipe,
    plan: RowPlan,
    generator: random.Random,
) -> Iterator[Row]:
    """Rows of batches in which no row holds another row's query or positive.

    Without this, in-batch negatives push a query away from itself or from its own positives, and the
    encoder collapses. Queries passed over in one batch come first in the next.
    """
    waiting: deque[JudgedQuery] = deque()
    batch_size, failures = plan.batch_size, 0
    # As many as the buffer holds have been seen once, whatever order they came in.
    patience = batch_size + 2 * min(plan.queries, recipe.shuffle_buffer)
    while failures < MAX_FAILURES:
        batch, passed = _Batch(recipe, generator), []
        looked_at = 0
        while len(batch.rows) < batch_size and looked_at < patience:
            query = waiting.popleft() if waiting else next(stream)
            looked_at += 1
            if not batch.take(query):
                passed.append(query)
        waiting.extendleft(reversed(passed))
        if len(batch.rows) == batch_size:
            failures = 0
            yield from batch.rows
        else:
            failures += 1
            waiting.clear()
    raise TrainingError(f"no batch of {batch_size} queries without conflict; give a smaller batch_size")


class _Batch:
    """Rows that fit together."""

    def __init__(self, recipe: InfoNceRecipe | DistillRecipe, generator: random.Random) -> None:
        self.rows: list[Row] = []
        self._recipe = recipe
        self._generator = generator
        self._shown: set[str] = set()  # ids that in-batch negatives are made of, and queries
        self._forbidden: set[str] = set()  # ids that are a query of the batch, or positive for one

    def take(self, query: JudgedQuery) -> bool:
        """Draw a row of the query and keep it, unless it conflicts with another one."""
        positive = self._generator.choice(query.positives)
        negatives = self._generator.sample(query.negatives, self._negatives())
        own = {query.query_id, *(c.candidate_id for c in (*query.positives, *query.others))}
        held = {query.query_id, *(c.candidate_id for c in (positive, *negatives))}
        if own & self._shown or held & self._forbidden:
            return False
        self.rows.append(self._row(query, positive, negatives))
        self._shown |= held
        self._forbidden |= own
        return True

    def _negatives(self) -> int:
        return self._recipe.hard_negatives if isinstance(self._recipe, InfoNceRecipe) else 1

    def _row(self, query: JudgedQuery, positive: Candidate, negatives: list[Candidate]) -> Row:
        if isinstance(self._recipe, InfoNceRecipe):
            named = {f"negative_{number}": one.text for number, one in enumerate(negatives, start=1)}
            return {"anchor": query.text, "positive": positive.text, **named}
        rest = [one for one in query.candidates if one not in (positive, *negatives)]
        others = self._generator.sample(rest, self._recipe.candidates - 2)
        named = {f"candidate_{number}": one.text for number, one in enumerate(others, start=3)}
        label = [_target(one) for one in (positive, *negatives, *others)]
        return {
            "anchor": query.text,
            "positive": positive.text,
            "negative": negatives[0].text,
            **named,
            "label": label,
        }


def _target(candidate: Candidate) -> float:
    """The teacher's log-probability; a candidate with another label gets no share, whatever was guessed."""
    return candidate.gold_log_prob if candidate.same_label else -math.inf


def _drop_words(row: Row, share: float, generator: random.Random) -> Row:
    if share == 0:
        return row
    return {
        key: _thin(value, share, generator) if isinstance(value, str) else value for key, value in row.items()
    }


def _thin(text: str, share: float, generator: random.Random) -> str:
    kept = [word for word in text.split() if generator.random() >= share]
    return " ".join(kept) or text
