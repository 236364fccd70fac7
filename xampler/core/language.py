"""Languages: their codes, and the table that maps every data set's codes to one.

A code is ISO 639-3, underscore, ISO 15924 script: ``yor_Latn``.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from xampler.errors import LanguageCodeError

logger = logging.getLogger(__name__)

CODE_PATTERN = r"^[a-z]{3}(_[A-Z][a-z]{3})?$"  # also read by Spark, so only what Java knows too
UNKNOWN = "unknown"
UNDETERMINED_SCRIPT = "Zyyy"  # ISO 15924
COLUMNS = (
    "code",
    "iso639_3",
    "script",
    "name",
    "family",
    "glottocode",
    "in_mala500",
    "in_xlmr",
    "aliases",
)


@dataclass(frozen=True)
class Language:
    """A language in one script."""

    code: str
    iso639_3: str
    script: str
    name: str
    family: str  # top level in Glottolog, or UNKNOWN
    glottocode: str  # empty where there is none
    in_mala500: bool  # in Glot500-c, which Glot500 and MaLA-500 were trained on
    in_xlmr: bool


class Languages:
    """The table of languages, looked up by any of their codes."""

    def __init__(self, languages: Iterable[Language], aliases: Mapping[str, str]) -> None:
        """``aliases`` maps other codes of a variety to its code.

        Raises:
            LanguageCodeError: a code occurs twice, is also an alias, or an alias leads nowhere.
        """
        self._languages: dict[str, Language] = {}
        self._by_iso: dict[str, list[Language]] = {}
        for language in languages:
            if language.code in self._languages:
                raise LanguageCodeError(f"languages table: {language.code} stands there twice")
            self._languages[language.code] = language
            self._by_iso.setdefault(language.iso639_3, []).append(language)
        for alias, code in aliases.items():
            if alias in self._languages or code not in self._languages:
                raise LanguageCodeError(
                    f"languages table: alias {alias} of {code} must be no code itself, and {code} must be one"
                )
        self._aliases = dict(aliases)
        self._unlisted: dict[str, Language] = {}

    @classmethod
    def parse_rows(cls, rows: Iterable[Mapping[str, str]]) -> "Languages":
        """Build the table from rows with :data:`COLUMNS`; aliases are separated by blanks.

        Raises:
            LanguageCodeError: a column is missing, or codes and aliases contradict each other.
        """
        languages: list[Language] = []
        aliases: dict[str, str] = {}
        for row in rows:
            missing = [column for column in COLUMNS if row.get(column) is None]
            if missing:
                raise LanguageCodeError(f"languages table: a row has no {', '.join(missing)}: {dict(row)}")
            languages.append(_parse_row(row))
            for alias in row["aliases"].split():
                if alias in aliases:
                    raise LanguageCodeError(
                        f"languages table: alias {alias} of both {aliases[alias]} and {row['code']}"
                    )
                aliases[alias] = row["code"]
        return cls(languages, aliases)

    @property
    def all(self) -> tuple[Language, ...]:
        """Every listed language, in table order."""
        return tuple(self._languages.values())

    def resolve(self, source_code: str) -> Language:
        """The language that a data set calls ``source_code``: a code, an alias, or ISO 639-3 alone.

        A well-formed code that is not listed is allowed: its family is that of the same ISO 639-3 code
        in another script, else :data:`UNKNOWN`, and a warning is logged once per code.

        Raises:
            LanguageCodeError: the code is malformed, or has no script where several are listed.
        """
        code = self._aliases.get(source_code, source_code)
        known = self._languages.get(code) or self._unlisted.get(code)
        if known is not None:
            return known
        if not re.fullmatch(CODE_PATTERN, source_code):
            raise LanguageCodeError(
                f"{source_code!r} is no language code: expected ISO 639-3, or ISO 639-3, underscore and "
                "ISO 15924 script, as in yor or yor_Latn; map other codes to these first"
            )
        if len(source_code) == 3 and source_code in self._by_iso:
            return self._only_script(source_code)
        self._unlisted[source_code] = self._guess(source_code)
        return self._unlisted[source_code]

    def _only_script(self, iso639_3: str) -> Language:
        found = self._by_iso[iso639_3]
        if len(found) > 1:
            choices = ", ".join(language.code for language in found)
            raise LanguageCodeError(f"{iso639_3!r} is written in several scripts: give one of {choices}")
        return found[0]

    def _guess(self, source_code: str) -> Language:
        iso639_3, _, script = source_code.partition("_")
        script = script or UNDETERMINED_SCRIPT
        code = f"{iso639_3}_{script}"
        relatives = self._by_iso.get(iso639_3)
        if relatives:
            language = replace(relatives[0], code=code, script=script, in_mala500=False, in_xlmr=False)
        else:
            language = Language(code, iso639_3, script, iso639_3, UNKNOWN, "", False, False)
        logger.warning(
            "language %s is not in conf/languages.tsv: taken as %s, family %s",
            source_code,
            code,
            language.family,
        )
        return language


def _parse_row(row: Mapping[str, str]) -> Language:
    flags = {name: row[name] for name in ("in_mala500", "in_xlmr")}
    if not set(flags.values()) <= {"0", "1"}:
        raise LanguageCodeError(f"languages table: {row['code']}: flags must be 0 or 1, got {flags}")
    if row["code"] != f"{row['iso639_3']}_{row['script']}" or not re.fullmatch(CODE_PATTERN, row["code"]):
        raise LanguageCodeError(f"languages table: {row['code']} is not ISO 639-3, underscore and script")
    return Language(
        code=row["code"],
        iso639_3=row["iso639_3"],
        script=row["script"],
        name=row["name"],
        family=row["family"] or UNKNOWN,
        glottocode=row["glottocode"],
        in_mala500=flags["in_mala500"] == "1",
        in_xlmr=flags["in_xlmr"] == "1",
    )
