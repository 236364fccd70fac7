"""A task: its labels, prompt template and verbalizer."""

from typing import Self

from pydantic import Field, model_validator

from xampler.config import Config


class Task(Config):
    """A closed set of labels and the frame in which texts are shown to the language model.

    The default template is the one of SIB-200 in the XAMPLER paper (arXiv 2405.05116, appendix).
    """

    name: str = Field(min_length=1)
    labels: tuple[str, ...] = Field(min_length=2)
    template: str = 'The topic of the news "{text}" is {label}'
    separator: str = "\n"  # between demonstrations, and before the query
    verbalizer: dict[str, str] = {}  # label -> label words; a label left out stands for itself

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must differ, got {self.labels}")
        holds_each_once = self.template.count("{text}") == self.template.count("{label}") == 1
        if not holds_each_once or not self.template.endswith(" {label}"):
            raise ValueError("template must hold {text} once, {label} once and end with ' {label}'")
        unknown = set(self.verbalizer) - set(self.labels)
        if unknown:
            raise ValueError(f"verbalizer names labels that the task has not: {sorted(unknown)}")
        words = self.label_words
        if len(set(words)) != len(words) or any(word != word.strip() or not word for word in words):
            raise ValueError(f"label words must differ, be non-empty and have no outer blanks, got {words}")
        return self

    @property
    def label_words(self) -> tuple[str, ...]:
        """The words of each label, in the order of ``labels``."""
        return tuple(self.words_of(label) for label in self.labels)

    def words_of(self, label: str) -> str:
        """The words that stand for ``label`` in a prompt."""
        return self.verbalizer.get(label, label)
