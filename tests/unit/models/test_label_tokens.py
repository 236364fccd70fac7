from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase

from xampler.errors import DataError, LabelWordError
from xampler.models.label_tokens import PromptTokenizer
from xampler.models.label_trie import build_label_trie

LABELS = ["science/technology", "science", "sports 7", "x"]
any_text = st.text(alphabet="ab cé\"'/.-\n12ЖЗضم日本 ́", min_size=1, max_size=25)
endings = st.sampled_from(['" is', " is", "is", "", ".", " 12", ' "'])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(any_text, min_size=1, max_size=4), ending=endings)
def test_joint_tokens_are_those_of_the_whole_text(
    texts: list[str], ending: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompts = [f"a{text}{ending}" for text in texts]
    for prompt, item in zip(
        prompts,
        PromptTokenizer(tokenizer, "joint").tokenize([(prompt,) for prompt in prompts], LABELS),
        strict=True,
    ):
        for words, tail in zip(LABELS, item.tails, strict=True):
            assert [*item.context, *tail] == tokenizer(f"{prompt} {words}")["input_ids"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=any_text, max_tokens=st.integers(0, 12))
def test_truncate_is_a_beginning_within_the_limit(
    text: str, max_tokens: int, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompts = PromptTokenizer(tokenizer, "joint")
    short = prompts.truncate(text, max_tokens)
    count = len(prompts.encode([text])[0])
    assert text.startswith(short)
    assert len(prompts.encode([short])[0]) <= max_tokens
    assert short == text or count > max_tokens


@pytest.mark.parametrize(
    ("text", "max_tokens", "expected"),
    [
        ("water is here", 13, "water is here"),
        ("water is here", 12, "water is her"),
        ("мяч", 6, "мяч"),
        ("мяч", 5, "мя"),  # two bytes a letter
        ("e\u0301e\u0301", 5, "e\u0301"),  # a mark stays with its letter
        ("мяч", 0, ""),
    ],
)
def test_truncate_for_a_tokenizer_that_tells_no_places(text: str, max_tokens: int, expected: str) -> None:
    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    assert PromptTokenizer(tokenizer, "joint").truncate(text, max_tokens) == expected


def test_truncate_keeps_as_much_as_fits(word_tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = PromptTokenizer(word_tokenizer, "joint")
    assert prompts.truncate("is is is is", 3) == "is is is"


def test_ending_is_encoded_once_for_all_prompts(
    word_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = PromptTokenizer(word_tokenizer, "joint")
    encoded: list[str] = []
    encode = prompts.encode

    def spy(texts: Sequence[str]) -> list[list[int]]:
        encoded.extend(texts)
        return encode(texts)

    monkeypatch.setattr(prompts, "encode", spy)
    monkeypatch.setattr(prompts.pieces, "encode", spy)
    prompts.tokenize([(f'"text {number}" is',) for number in range(50)], LABELS)
    assert len(encoded) == 51


def test_separate_has_a_stray_piece(tokenizer: PreTrainedTokenizerBase) -> None:
    [item] = PromptTokenizer(tokenizer, "separate").tokenize([("a prompt is",)], LABELS)
    assert list(item.context) == tokenizer("a prompt is")["input_ids"]
    assert list(item.tails[1]) == tokenizer(" science", add_special_tokens=False)["input_ids"]


def test_label_that_tokenises_to_nothing(word_tokenizer: PreTrainedTokenizerBase) -> None:
    for words in ("", " \t"):
        with pytest.raises(LabelWordError, match="at least one word"):
            PromptTokenizer(word_tokenizer, "joint").tokenize([("a",)], ["sports", words])


def test_prompt_that_tokenises_to_nothing(word_tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = PromptTokenizer(word_tokenizer, "joint")
    [item] = prompts.tokenize([("",)], LABELS)
    assert item.context == (word_tokenizer.bos_token_id,)
    prompts.leading = ()
    with pytest.raises(DataError, match="tokenises to nothing"):
        prompts.tokenize([("",)], LABELS)


def test_trie_shares_beginnings() -> None:
    trie = build_label_trie(((1, 2, 3), (1, 2), (1, 4), (5,)))
    assert trie.tokens == (1, 2)
    assert trie.parents == (-1, 0)
    steps = list(zip(trie.step_rows, trie.step_tokens, strict=True))
    assert [[steps[step] for step in label] for label in trie.label_steps] == [
        [(0, 1), (1, 2), (2, 3)],
        [(0, 1), (1, 2)],
        [(0, 1), (1, 4)],
        [(0, 5)],
    ]
    assert len(steps) == 5
