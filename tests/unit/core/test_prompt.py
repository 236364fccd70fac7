from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xampler.core.prompt import (
    Demonstration,
    PromptConfig,
    build_prompt,
    fit_prompts,
    prompt_id,
    prompt_pieces,
)
from xampler.core.task import Task

NEWS = Task(name="news", labels=("sports", "science/technology"))
SHORT = Task(name="short", labels=("a", "b"), template="{text} is {label}", separator=" ; ")
RESERVED = 2 + 1  # special tokens and the border to the label words; the longest label words of SHORT
WHOLE = PromptConfig()


class Fitted(NamedTuple):
    text: str
    demonstrations_dropped: int
    texts_shortened: int


class WordModel:
    """A token is a blank-separated word."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def truncate(self, text: str, max_tokens: int) -> str:
        return " ".join(text.split()[:max_tokens])


class CrowdedModel(WordModel):
    """Within a prompt each word longer than three letters takes two tokens; by itself, one."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [sum(1 + (len(word) > 3) for word in text.split()) for text in texts]


def words(count: int, stem: str = "w") -> str:
    return " ".join(f"{stem}{number}" for number in range(count))


def fit(
    query: str, demonstrations: Sequence[Demonstration], max_prompt: int, config: PromptConfig = WHOLE
) -> Fitted:
    """Fit into ``max_prompt`` words beside the label words."""
    [fitted] = fit_prompts(SHORT, [query], [demonstrations], WordModel(max_prompt + RESERVED), config)
    return Fitted(fitted.text, fitted.demonstrations_dropped, fitted.texts_shortened)


def test_prompt_of_the_paper() -> None:
    demonstrations = [
        Demonstration("Rain today", "sports"),
        Demonstration("A new chip", "science/technology"),
    ]
    assert build_prompt(NEWS, "Goal!", demonstrations) == (
        'The topic of the news "Rain today" is sports\n'
        'The topic of the news "A new chip" is science/technology\n'
        'The topic of the news "Goal!" is'
    )


def test_without_demonstrations_the_query_stands_alone() -> None:
    assert build_prompt(NEWS, "Goal!", []) == 'The topic of the news "Goal!" is'


@pytest.mark.parametrize(
    "text",
    [
        "{text}",
        "{label}",
        "is {label}",
        "{text} {label} {0} {",
        "two\nlines",
        "\\1 \\g<0> %s",
        'a "quoted" word',
        "\u0627\u0644\u0637\u0642\u0633 \u062c\u0645\u064a\u0644",
        "\u0fa3\u0f0b \U0001f600",
        "cafe\u0301",
        "",
    ],
)
def test_texts_reach_the_prompt_as_they_are(text: str) -> None:
    prompt = build_prompt(NEWS, text, [Demonstration(text, "{text}")])
    assert prompt == f'The topic of the news "{text}" is {{text}}\nThe topic of the news "{text}" is'


def test_pieces_are_cut_before_a_blank_between_demonstrations() -> None:
    shots = [Demonstration("d e", "sports"), Demonstration("f", "science/technology")]
    assert prompt_pieces(NEWS, "q", shots) == (
        'The topic of the news "d e" is sports\nThe',
        ' topic of the news "f" is science/technology\nThe',
        ' topic of the news "q" is',
    )
    assert prompt_pieces(SHORT, "q", [Demonstration("d", "a")]) == ("d is a", " ; q is")
    assert prompt_pieces(NEWS, "q", []) == ('The topic of the news "q" is',)


def test_template_and_separator_of_the_task_are_used() -> None:
    assert (
        build_prompt(SHORT, "q", [Demonstration("d", "a"), Demonstration("e", "b")])
        == "d is a ; e is b ; q is"
    )


def test_prompt_that_fits_is_left_whole() -> None:
    demonstrations = [Demonstration(words(3), "a"), Demonstration(words(2), "b")]
    length = (3 + 2) + 1 + (2 + 2) + 1 + (4 + 1)
    whole = build_prompt(SHORT, words(4), demonstrations)
    assert len(whole.split()) == length
    assert fit(words(4), demonstrations, length) == Fitted(whole, 0, 0)


def test_the_least_similar_demonstration_is_dropped_first() -> None:
    demonstrations = [Demonstration(words(3), "a"), Demonstration(words(2), "b")]
    fitted = fit(words(4), demonstrations, 15 - 1)
    assert fitted == Fitted(build_prompt(SHORT, words(4), demonstrations[1:]), 1, 0)


def test_room_is_left_for_the_longest_label_words() -> None:
    task = SHORT.model_copy(update={"labels": ("a", "three words long")})
    demonstrations = [Demonstration("d", "a"), Demonstration("e", "a")]
    length = len(build_prompt(task, "q", demonstrations).split())
    [enough], [too_few] = (
        fit_prompts(task, ["q" * 40], [demonstrations], WordModel(length + 2 + 3 - less), WHOLE)
        for less in (0, 1)
    )
    assert (enough.demonstrations_dropped, too_few.demonstrations_dropped) == (0, 1)


def test_query_and_last_demonstration_are_shortened_in_equal_parts() -> None:
    # 4 words of frame ("is", "a", ";", "is") leave 6 of 10 to the two texts.
    fitted = fit(words(20, "q"), [Demonstration(words(9), "b"), Demonstration(words(20, "d"), "a")], 10)
    assert fitted == Fitted("d0 d1 d2 is a ; q0 q1 q2 is", 1, 2)


def test_text_that_lost_nothing_does_not_count_as_shortened() -> None:
    fitted = fit(words(50, "query"), [Demonstration("d0 d1", "a")], 10)
    assert fitted == Fitted("d0 d1 is a ; query0 query1 query2 is", 0, 1)


def test_long_query_without_demonstrations_is_shortened() -> None:
    assert fit(words(50, "query"), [], 5) == Fitted("query0 query1 query2 query3 is", 0, 1)


def test_every_text_keeps_a_token_however_small_the_model() -> None:
    fitted = fit(words(50, "query"), [Demonstration(words(50, "demo"), "a")], 1)
    assert fitted == Fitted("demo0 is a ; query0 is", 0, 2)


def test_texts_that_take_more_tokens_in_place_are_shortened_further() -> None:
    model = CrowdedModel(9 + RESERVED)
    [fitted] = fit_prompts(SHORT, [words(40, "long")], [[]], model, WHOLE)
    assert fitted.texts_shortened == 1
    assert 2 < model.count_tokens([fitted.text])[0] <= 9


def test_every_text_is_cut_to_max_text_tokens() -> None:
    demonstrations = [Demonstration(words(9, "d"), "a"), Demonstration("e0", "b")]
    fitted = fit(words(9, "q"), demonstrations, 100, PromptConfig(max_text_tokens=2))
    assert fitted == Fitted("d0 d1 is a ; e0 is b ; q0 q1 is", 0, 0)


def test_cut_by_max_text_tokens_comes_before_anything_is_dropped() -> None:
    demonstrations = [Demonstration(words(9, "d"), "a"), Demonstration(words(9, "e"), "b")]
    cut = fit(words(9, "q"), demonstrations, 12, PromptConfig(max_text_tokens=1))
    assert cut == Fitted("d0 is a ; e0 is b ; q0 is", 0, 0)
    assert fit(words(9, "q"), demonstrations, 12).demonstrations_dropped == 1


@pytest.mark.parametrize("limit", [0, -1])
def test_max_text_tokens_is_positive(limit: int) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        PromptConfig(max_text_tokens=limit)


def longest_suffix_that_fits(query: str, demonstrations: Sequence[Demonstration], room: int) -> str | None:
    prompts = [
        build_prompt(SHORT, query, demonstrations[start:]) for start in range(max(1, len(demonstrations)))
    ]
    return next((prompt for prompt in prompts if len(prompt.split()) <= room), None)


@given(st.integers(1, 30), st.lists(st.integers(1, 12), max_size=5), st.integers(6, 60))
def test_no_more_is_lost_than_must_be(query_words: int, demonstration_words: list[int], room: int) -> None:
    query, demonstrations = words(query_words), [Demonstration(words(n), "a") for n in demonstration_words]
    fitted = fit(query, demonstrations, room)
    assert len(fitted.text.split()) <= room
    expected = longest_suffix_that_fits(query, demonstrations, room)
    if expected is not None:
        kept = len(demonstrations) - fitted.demonstrations_dropped
        assert (fitted.text, fitted.texts_shortened) == (expected, 0)
        assert fitted.text.count(";") == kept
    else:
        assert fitted.demonstrations_dropped == max(0, len(demonstrations) - 1)
        assert fitted.texts_shortened > 0


def test_prompt_id_depends_on_all_that_shapes_a_prompt() -> None:
    variants = [
        prompt_id(task, config, max_tokens)
        for task, config, max_tokens in (
            (SHORT, WHOLE, 100),
            (SHORT, WHOLE, 101),
            (SHORT, PromptConfig(max_text_tokens=100), 100),
            (SHORT.model_copy(update={"template": "{text} has {label}"}), WHOLE, 100),
            (SHORT.model_copy(update={"separator": "\n"}), WHOLE, 100),
            (SHORT.model_copy(update={"labels": ("b", "a")}), WHOLE, 100),
            (SHORT.model_copy(update={"verbalizer": {"a": "alpha"}}), WHOLE, 100),
            # The same words in the same order, but each stands for the other label.
            (SHORT.model_copy(update={"labels": ("b", "a"), "verbalizer": {"b": "a", "a": "b"}}), WHOLE, 100),
        )
    ]
    assert len(set(variants)) == len(variants)


def test_prompt_id_is_the_same_for_equal_tasks() -> None:
    again = Task.model_validate_json(SHORT.model_dump_json())
    assert prompt_id(again, PromptConfig(), 100) == prompt_id(SHORT, WHOLE, 100)
    renamed = SHORT.model_copy(update={"name": "other"})  # the task's name is in the query's id
    assert prompt_id(renamed, WHOLE, 100) == prompt_id(SHORT, WHOLE, 100)
