import json
from typing import Any

import pytest

from xampler.config import parse_config
from xampler.core.task import Task
from xampler.errors import ConfigError


def make_task(**changes: object) -> Task:
    return parse_config(Task, {"name": "toy", "labels": ["sports", "health", "travel"]} | changes, "toy.yaml")


def test_a_label_stands_for_itself_unless_the_verbalizer_names_it() -> None:
    task = make_task(verbalizer={"travel": "trips abroad", "sports": "games"})
    assert task.label_words == ("games", "health", "trips abroad")
    assert task.words_of("travel") == "trips abroad"
    assert task.words_of("health") == "health"


def test_default_template_is_the_papers() -> None:
    assert make_task().template == 'The topic of the news "{text}" is {label}'
    assert make_task().separator == "\n"


def test_label_words_may_begin_one_another_and_be_of_any_script() -> None:
    verbalizer = {"sports": "news", "health": "news about health", "travel": "\u0631\u062d\u0644\u0629"}
    assert make_task(verbalizer=verbalizer).label_words == tuple(verbalizer.values())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"labels": ["sports"]}, "labels"),
        ({"labels": ["sports", "health", "sports"]}, "labels must differ"),
        ({"labels": "sports"}, "labels"),
        ({"name": ""}, "name"),
        ({"template": "is {label}"}, "{text} once"),
        ({"template": "{text} and {text} is {label}"}, "{text} once"),
        ({"template": "{text} is{label}"}, "end with ' {label}'"),
        ({"template": "{text} is {label}."}, "end with ' {label}'"),
        ({"template": "{label}: {text} is {label}"}, "end with ' {label}'"),
        ({"verbalizer": {"sport": "games"}}, "['sport']"),
        ({"verbalizer": {"sports": "health"}}, "must differ"),
        ({"verbalizer": {"sports": ""}}, "non-empty"),
        ({"verbalizer": {"sports": " games"}}, "outer blanks"),
        ({"verbalizer": {"sports": "games\n"}}, "outer blanks"),
        ({"labels": ["sports", "health "]}, "outer blanks"),
        ({"verbalizer": ["games"]}, "verbalizer"),
        ({"lables": ["a", "b"]}, "lables: unknown key"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_broken_task_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_task(**changes)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("toy.yaml: ")


def test_outer_blanks_of_a_label_may_be_mended_by_the_verbalizer() -> None:
    assert (
        make_task(labels=["sports ", "health"], verbalizer={"sports ": "sports"}).label_words[0] == "sports"
    )
