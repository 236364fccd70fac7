"""From the languages that a config names to those of the source."""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from xampler.core.language import Language, Languages
from xampler.errors import DataError, LanguageCodeError
from xampler.pipeline.sources.config import Selection

logger = logging.getLogger(__name__)

NAMES_SHOWN = 40  # languages listed in one message


@dataclass(frozen=True)
class Offer:
    """What a source has: its languages by their own codes, and the splits of each."""

    origin: str
    source_langs: Sequence[str]
    splits_of: Callable[[str], Collection[str]]


@dataclass(frozen=True)
class Chosen:
    """One language of one split to read."""

    split: str
    source_lang: str
    language: Language


def choose(offer: Offer, selection: Selection, languages: Languages) -> tuple[list[Chosen], list[str]]:
    """The languages to read, in order, and what a user should know about them.

    Raises:
        DataError: a named language, or its split, is not in the source.
        LanguageCodeError: the config names something that is no language code.
    """
    known, warnings = _resolve_all(offer, languages)
    chosen: list[Chosen] = []
    for split, choice in selection.choices().items():
        if choice == "all":
            found = [source_lang for source_lang in known if split in offer.splits_of(source_lang)]
            warnings += _describe_lacking(offer, split, known, found)
        else:
            found = [name for code in choice for name in _find(offer, split, code, known, languages)]
        chosen += [Chosen(split, name, known[name]) for name in dict.fromkeys(found)]
    for warning in warnings:
        logger.warning(warning)
    return chosen, warnings


def _resolve_all(offer: Offer, languages: Languages) -> tuple[dict[str, Language], list[str]]:
    known: dict[str, Language] = {}
    warnings = []
    for source_lang in offer.source_langs:
        try:
            known[source_lang] = languages.resolve(source_lang)
        except LanguageCodeError as error:
            warnings.append(f"{offer.origin}: {source_lang!r} is left out: {error}")
    return known, warnings


def _find(offer: Offer, split: str, code: str, known: dict[str, Language], languages: Languages) -> list[str]:
    language = languages.resolve(code)
    names = [name for name, candidate in known.items() if candidate.code == language.code]
    if not names:
        raise DataError(f"{offer.origin}: no language {code}; it has {_listed(known)}")
    found = [name for name in names if split in offer.splits_of(name)]
    if not found:
        having = [name for name in known if split in offer.splits_of(name)]
        raise DataError(
            f"{offer.origin}: language {code} has no {split} split (it has "
            f"{', '.join(offer.splits_of(names[0]))}); languages with one: {_listed(having)}"
        )
    return found


def _describe_lacking(offer: Offer, split: str, known: dict[str, Language], found: list[str]) -> list[str]:
    if not found:
        raise DataError(
            f"{offer.origin}: no language has a {split} split; its languages are {_listed(known)}"
        )
    lacking = [name for name in known if name not in found]
    if not lacking:
        return []
    return [
        f"{offer.origin}: {len(lacking)} of {len(known)} languages have no {split} split: {_listed(lacking)}"
    ]


def _listed(names: Iterable[str]) -> str:
    ordered = list(names)
    more = len(ordered) - NAMES_SHOWN
    shown = ", ".join(ordered[:NAMES_SHOWN]) or "none"
    return f"{shown} and {more} more" if more > 0 else shown
