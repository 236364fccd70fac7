from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from xampler.core.prompt import Demonstration, build_prompt, prompt_pieces
from xampler.core.task import Task
from xampler.models import pieces as pieces_module
from xampler.models import score_demonstrations, score_labels
from xampler.models.build import LanguageModelConfig, load_language_model
from xampler.models.label_tokens import PromptTokenizer

LABELS = ("science/technology", "sports", "x 7")
TASKS = [
    Task(name="news", labels=LABELS),
    Task(name="bare", labels=LABELS, template="{text} {label}"),
    Task(name="blank", labels=LABELS, template="a {text} is {label}", separator=" ; "),
    Task(name="marked", labels=LABELS, template='"{text}" is {label}', separator="\n\n"),
]
texts = st.text(alphabet="ab cé\"'/.-\n12ЖЗضم日本 ́▁Ġ", max_size=12)
shots = st.lists(st.builds(Demonstration, texts, st.sampled_from(LABELS)), max_size=4)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(task=st.sampled_from(TASKS), query=texts, shown=shots)
def test_tokens_are_those_of_the_whole(
    task: Task, query: str, shown: list[Demonstration], tokenizer: PreTrainedTokenizerBase
) -> None:
    pieces = prompt_pieces(task, query, shown)
    prompt = build_prompt(task, query, shown)
    [tokens] = PromptTokenizer(tokenizer, "joint").pieces.tokens([pieces])
    assert tokens == tokenizer(prompt, add_special_tokens=False)["input_ids"]


@pytest.fixture
def encoded(
    word_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> tuple[PromptTokenizer, list[str]]:
    prompts = PromptTokenizer(word_tokenizer, "joint")
    seen: list[str] = []
    encode = prompts.encode

    def spy(given: Sequence[str]) -> list[list[int]]:
        seen.extend(given)
        return encode(given)

    monkeypatch.setattr(prompts.pieces, "encode", spy)
    return prompts, seen


def test_a_demonstration_is_tokenised_once(encoded: tuple[PromptTokenizer, list[str]]) -> None:
    prompts, seen = encoded
    shown = [Demonstration(f"text {number}", "sports") for number in range(5)]
    for query in range(20):
        prompts.pieces.tokens([prompt_pieces(TASKS[0], f"query {query}", shown)])
    examined = 2
    assert len(seen) == examined + len(shown) + 20


def test_words_that_are_not_parted_are_tokenised_as_a_whole(
    encoded: tuple[PromptTokenizer, list[str]],
) -> None:
    prompts, seen = encoded
    prompts.pieces.tokens([("wat", "er is")])
    assert seen == ["wat", "er is", "water is"]


def test_borders_are_bounded_and_demonstrations_kept(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With this template every query makes a border of its own."""
    monkeypatch.setattr(pieces_module, "_KEPT", 8)
    pieces = PromptTokenizer(tokenizer, "joint").pieces
    shown = [Demonstration("text", "sports")]
    pieces.tokens([prompt_pieces(TASKS[3], "first", shown)])
    first = dict(pieces.known)
    for query in range(50):
        pieces.tokens([prompt_pieces(TASKS[3], f"query{query} here", shown)])
        assert len(pieces.borders) <= 9
    assert all(pieces.known[piece] is tokens for piece, tokens in first.items())


def test_equals_scores_of_finished_prompts(language_model_folder: str) -> None:
    folder = str(language_model_folder)
    shared = [("water is here", "sports"), ("Новости", "x 7")]
    queries = ["timu", "القدم 2024", "timu", "nothing shown"]
    shown = [shared, shared[:1], shared, []]
    finished = [
        build_prompt(TASKS[0], query, [Demonstration(*shot) for shot in own])
        for query, own in zip(queries, shown, strict=True)
    ]
    scores = score_demonstrations(folder, queries, shown, LABELS)
    np.testing.assert_allclose(scores, score_labels(folder, finished, LABELS), rtol=0, atol=1e-5)
    assert scores.shape == (4, 3)
    np.testing.assert_array_equal(scores[0], scores[2])
    assert score_demonstrations(folder, [], [], LABELS).shape == (0, 3)
    with pytest.raises(ValueError, match="argument"):
        score_demonstrations(folder, queries, shown[:1], LABELS)


def test_texts_are_cut_and_long_prompts_fitted(language_model_folder: str) -> None:
    folder = str(language_model_folder)
    cut = score_demonstrations(
        folder, ["timu ilishinda"], [[("water is here", "sports")]], LABELS, max_text_tokens=1
    )
    truncate = load_language_model(LanguageModelConfig(model=folder)).truncate
    query, text = truncate("timu ilishinda", 1), truncate("water is here", 1)
    short = score_demonstrations(folder, [query], [[(text, "sports")]], LABELS)
    np.testing.assert_allclose(cut, short, atol=1e-5)
    fits = score_demonstrations(folder, ["timu"], [[("water " * 100, "sports")] * 9], LABELS)
    assert np.isfinite(fits).all()
