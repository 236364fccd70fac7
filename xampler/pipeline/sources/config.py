"""Where texts come from and which of them are wanted."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from xampler.config import Config

SPLITS = ("train", "dev", "test")
Split = Literal["train", "dev", "test"]
LanguageChoice = tuple[str, ...] | Literal["all"]
PACKAGE_PREFIX = "package:"


class Selection(Config):
    """The languages wanted of each split; ``all`` are those that have the split."""

    train: LanguageChoice = ()
    dev: LanguageChoice = ()
    test: LanguageChoice = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.train or self.dev or self.test):
            raise ValueError("name languages, or all, for at least one of train, dev and test")
        return self

    def choices(self) -> dict[str, LanguageChoice]:
        """The non-empty choices by split."""
        chosen = {"train": self.train, "dev": self.dev, "test": self.test}
        return {split: languages for split, languages in chosen.items() if languages}


class Sib200Source(Config):
    """SIB-200: the published folder (or its ``data/annotated``), or the data set on the hub."""

    format: Literal["sib200"]
    root: str | None = None  # a folder; with PACKAGE_PREFIX, one inside the installed package
    hub: str | None = None  # Davlan/sib200, or a local folder of Parquet files exported from it
    revision: str | None = None  # of the hub's repository

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_one_origin(self.root, self.hub)
        return self


class MasakhanewsSource(Config):
    """MasakhaNEWS: a folder per language, or the data set on the hub."""

    format: Literal["masakhanews"]
    root: str | None = None
    hub: str | None = None  # mteb/masakhanews, or a local folder of Parquet files exported from it
    revision: str | None = None
    text: Literal["headline+text", "headline", "text"] = "headline+text"  # joined by one space

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_one_origin(self.root, self.hub)
        return self


class Taxi1500Source(Config):
    """Taxi1500: ``labels/<split>.tsv`` by verse id, ``data/<code>/<split>.tsv`` with the verses."""

    format: Literal["taxi1500"]
    root: str


class TableColumns(Config):
    """Names of the user's columns."""

    text: str = Field(min_length=1)
    lang: str | None = None
    label: str | None = None
    split: str | None = None
    id: str | None = None  # the same in every translation of a text

    def named(self) -> dict[str, str]:
        """The mapped columns: field -> column."""
        fields = {
            "text": self.text,
            "lang": self.lang,
            "label": self.label,
            "split": self.split,
            "id": self.id,
        }
        return {field: column for field, column in fields.items() if column is not None}


class TableSource(Config):
    """The user's own data: a file, a folder or a pattern of files."""

    format: Literal["table"]
    path: str = Field(min_length=1)  # as Spark takes it: local, or with a scheme such as s3a://
    kind: Literal["tsv", "csv", "jsonl", "parquet", "delta"]
    columns: TableColumns
    lang: str | None = None  # of all rows, where no column holds it
    split: Split = "test"  # of all rows, where no column holds it

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.lang is None) == (self.columns.lang is None):
            raise ValueError(
                "give the language once: columns.lang names its column, lang is the one of all rows"
            )
        return self


Source = Annotated[
    Sib200Source | MasakhanewsSource | Taxi1500Source | TableSource, Field(discriminator="format")
]


def check_one_origin(root: str | None, hub: str | None) -> None:
    """Raises:
    ValueError: not exactly one of the two is given.
    """
    if (root is None) == (hub is None):
        raise ValueError("give either root (a folder) or hub (a data set id), and not both")
