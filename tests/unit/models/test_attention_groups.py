import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xampler.models import attention_groups
from xampler.models.attention_groups import group_attentions
from xampler.models.label_tokens import TokenizedPrompt
from xampler.models.packing import Attention, pack

CPU = torch.device("cpu")
TAILS = ((1, 2, 3), (1, 2), (1, 4), (5,))
contexts = st.lists(
    st.lists(st.integers(0, 1), min_size=1, max_size=90).map(tuple), min_size=1, max_size=8, unique=True
)


def _seen_by_calls(calls: list[Attention], tokens: int) -> torch.Tensor:
    """How often each place of the row [tokens, tokens] sees which."""
    seen = torch.zeros(tokens, tokens, dtype=torch.long)
    for call in calls:
        keys = torch.cat([torch.arange(*range_) for range_ in call.path])
        mask = torch.ones(len(keys), len(keys)).tril() - 1 if call.mask is None else call.mask
        seen[torch.arange(*call.rows)[:, None], keys] += mask == 0
    return seen


def _seen_by_groups(calls: list[Attention], tokens: int) -> torch.Tensor:
    seen = torch.zeros(tokens, tokens, dtype=torch.long)
    for group in group_attentions(calls, torch.float32, CPU):
        count, rows = group.rows.shape
        mask = torch.ones(1, 1, rows, rows).tril() - 1 if group.mask is None else group.mask
        open_ = (mask == 0).expand(count, 1, rows, -1)
        assert open_.any(-1).all()  # no query sees nothing: its result would be NaN
        torch.testing.assert_close(group.rows.flatten()[group.unpadded], group.places)
        keys = group.keys[:, None, :].expand(count, rows, -1).flatten(0, 1)[group.unpadded]
        visible = open_[:, 0].flatten(0, 1)[group.unpadded].long()
        seen.index_put_((group.places[:, None].expand_as(keys), keys), visible, accumulate=True)
    return seen


@settings(max_examples=60, deadline=None)
@given(contexts=contexts, prefix=st.integers(0, 40), window=st.sampled_from([None, 3, 20]))
def test_groups_see_what_their_calls_see(
    contexts: list[tuple[int, ...]], prefix: int, window: int | None
) -> None:
    items = [TokenizedPrompt((0,) * prefix + context, TAILS) for context in contexts]
    [batch] = pack(items, range(len(items)), 10_000)
    tokens = len(batch.tokens)
    for calls in (batch.attentions(torch.float32, window), batch.reads(torch.float32, window)):
        torch.testing.assert_close(_seen_by_groups(calls, tokens), _seen_by_calls(calls, tokens))


def test_many_prompts_of_about_one_length_make_few_calls() -> None:
    lengths = [90 + number % 40 for number in range(200)]
    items = [TokenizedPrompt((number, *range(1000, 999 + lengths[number])), TAILS) for number in range(200)]
    [batch] = pack(items, range(200), 100_000)
    calls = batch.attentions(torch.bfloat16)
    groups = group_attentions(calls, torch.bfloat16, CPU)
    assert len(calls) == 400
    assert len(groups) <= 8
    computed = sum(group.rows.numel() for group in groups)
    assert computed < 1.25 * len(batch.tokens)


def test_prompts_that_share_much_do_not_copy_it_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_groups, "_MOST_KEYS", 5000)
    shown = tuple(range(1000))
    items = [TokenizedPrompt((*shown, 2000 + number, 1, 2), TAILS) for number in range(20)]
    [batch] = pack(items, range(20), 100_000)
    calls = batch.attentions(torch.float32)
    groups = group_attentions(calls, torch.float32, CPU)
    assert max(group.keys.numel() for group in groups) <= 5000
    tokens = len(batch.tokens)
    torch.testing.assert_close(_seen_by_groups(calls, tokens), _seen_by_calls(calls, tokens))


def test_masks_are_aligned() -> None:
    items = [TokenizedPrompt(tuple(range(length)), TAILS) for length in (5, 6, 7)]
    [batch] = pack(items, range(3), 1000, min_shared=100)
    groups = group_attentions(batch.attentions(torch.bfloat16), torch.bfloat16, CPU)
    masks = [group.mask for group in groups if group.mask is not None]
    assert masks
    assert all(mask.shape[-1] % 8 == 0 for mask in masks)
