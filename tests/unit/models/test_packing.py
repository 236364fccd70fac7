import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xampler.models.label_tokens import TokenizedPrompt
from xampler.models.packing import PackedBatch, pack

TAILS = ((1, 2, 3), (1, 2), (1, 4), (5,))
BLOCK = 64


def _items(*contexts: tuple[int, ...]) -> list[TokenizedPrompt]:
    return [TokenizedPrompt(context, TAILS) for context in contexts]


def _visible(batch: PackedBatch, window: int | None = None, read: bool = False) -> NDArray[np.bool_]:
    """Which place of the row sees which, put together from the calls of attention."""
    count = len(batch.tokens)
    seen = np.zeros((count, count), dtype=bool)
    calls = batch.reads(torch.float32, window) if read else batch.attentions(torch.float32, window, BLOCK)
    for call in calls:
        keys = [at for start, stop in call.path for at in range(start, stop)]
        mask = torch.zeros(len(keys), len(keys)).masked_fill(torch.ones(len(keys), len(keys)).triu(1) > 0, -1)
        open_ = ((mask if call.mask is None else call.mask) == 0).numpy()
        seen[np.ix_(range(*call.rows), keys)] = open_
    return seen


contexts = st.lists(
    st.lists(st.integers(0, 1), min_size=1, max_size=90).map(tuple), min_size=1, max_size=5, unique=True
)


@settings(max_examples=60, deadline=None)
@given(
    contexts=contexts,
    prefix=st.integers(0, 40),
    budget=st.sampled_from([1, 80, 10_000]),
    min_shared=st.integers(1, 30),
)
def test_every_place_sees_its_own_sequence(
    contexts: list[tuple[int, ...]], prefix: int, budget: int, min_shared: int
) -> None:
    items = _items(*[(0,) * prefix + context for context in contexts])
    batches = pack(items, range(len(items)), budget, min_shared)
    assert sorted(number for batch in batches for number in batch.prompts) == list(range(len(items)))
    for batch in batches:
        seen = _visible(batch)
        tokens = np.array(batch.tokens)
        rows = iter(batch.rows())
        for number in batch.prompts:
            whole = items[number].context
            for ending in ((), (1,), (1, 2)):  # the trie's rows: the prompt, its two nodes
                row = next(rows)
                places = np.flatnonzero(seen[row])
                assert tuple(tokens[places]) == whole + ending
                assert [batch.positions[at] for at in places] == list(range(len(places)))
                for place in places:
                    assert seen[place].sum() == batch.positions[place] + 1
        for window in (None, 3, 20):
            all_, read = _visible(batch, window), _visible(batch, window, read=True)
            np.testing.assert_array_equal(read[batch.rows()], all_[batch.rows()])


def test_window_hides_what_is_far() -> None:
    items = _items((7,) * 30 + (8,) * 5, (7,) * 30 + (9,) * 5)
    [batch] = pack(items, [0, 1], 1000)
    full, windowed = _visible(batch), _visible(batch, window=6)
    positions = np.array(batch.positions)
    near = positions[:, None] - positions[None, :] < 6
    np.testing.assert_array_equal(windowed, full & near)


def test_shared_beginning_is_computed_once() -> None:
    items = _items((7,) * 30 + (8,) * 5, (7,) * 30 + (9,) * 6, (7,) * 30 + (9,) * 6 + (1,))
    [batch] = pack(items, [2, 0, 1], 1000)
    assert batch.prompts == [0, 1, 2]
    assert batch.shared == 30 + 36
    assert len(batch.tokens) == 35 + 6 + 1 + 3 * 2
    assert batch.rows() == [34, 35, 36, 42, 43, 44, 45, 46, 47]


def test_distinct_tokens_and_where_each_place_finds_its_own() -> None:
    [batch] = pack(_items((7, 8, 7, 9)), [0], 1000)
    firsts, sources = batch.distinct()
    assert [batch.tokens[place] for place in firsts] == [7, 8, 9, 1, 2]
    assert [batch.tokens[firsts[source]] for source in sources] == batch.tokens


def test_few_shared_tokens_are_computed_again() -> None:
    items = _items((7,) * 10 + (8,) * 5, (7,) * 10 + (9,) * 6)
    [batch] = pack(items, [0, 1], 1000)
    assert batch.shared == 0


def test_budget_and_largest_first() -> None:
    items = _items((1,) * 20, (2,) * 50, (3,) * 200, (4,) * 20)
    batches = pack(items, range(4), 100)
    assert [batch.prompts for batch in batches] == [[2], [0, 1], [3]]


def test_padding_stands_behind_all_prompts() -> None:
    items = _items((7,) * 20, (8,) * 5)
    [plain], [padded] = (pack(items, [0, 1], 1000) for _ in range(2))
    padded.pad(len(plain.tokens) + 3)
    assert padded.padding == 3
    assert padded.tokens == [*plain.tokens, 0, 0, 0]
    assert padded.positions == [*plain.positions, 0, 0, 0]
    assert padded.rows() == plain.rows()
    seen = _visible(padded)
    assert not seen[-3:].any()
    assert not seen[:, -3:].any()


def test_no_prompts() -> None:
    assert pack([], [], 100) == []


def test_without_blocks_the_prompt_gets_no_mask() -> None:
    items = [TokenizedPrompt((7,) * 300, ((5,),))]
    [batch] = pack(items, [0], 1000)
    [call] = batch.attentions(torch.float32)
    assert call.mask is None
    assert len(batch.attentions(torch.float32, block=BLOCK)) == pytest.approx(300 / BLOCK, abs=1)


def test_prompt_whose_tokens_all_stand_in_another_has_its_trie_alone() -> None:
    items = [TokenizedPrompt((7,) * 30, ((5,), (5, 6))), TokenizedPrompt((7,) * 30, ((8,), (8, 9)))]
    for block in (BLOCK, None):
        [batch] = pack(items, [0, 1], 1000)
        assert batch.branches[1].own == 0
        last = batch.attentions(torch.float32, block=block)[-1]
        assert last.rows == (batch.branches[1].stop, batch.branches[1].end)
