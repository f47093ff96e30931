"""The eleven languages, and the codes under which other tools know them.

Inside the platform a language is its ISO 639-3 code; two-letter codes are accepted at the edges. The classifier columns are
what fastText's lid.176 and CLD2 (hence Common Crawl's `languages-cld2`) call the language.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """One language of the platform."""

    code: str
    """ISO 639-3."""
    short: str
    """ISO 639-1 where there is one, else the customary code."""
    name: str
    """English name."""
    script: str
    """ISO 15924."""
    is_spaced: bool
    """Whether words are written with spaces between them."""
    fasttext: str
    """Label of lid.176, without `__label__`."""
    cld2: str
    """`code-iso-639-3` in Common Crawl's metadata records."""


def _language(code: str, short: str, name: str, script: str, is_spaced: bool, fasttext: str, cld2: str) -> Language:
    return Language(code=code, short=short, name=name, script=script, is_spaced=is_spaced, fasttext=fasttext, cld2=cld2)


LANGUAGES: dict[str, Language] = {
    language.code: language
    for language in (
        _language("mya", "my", "Burmese", "Mymr", False, "my", "mya"),
        _language("cmn", "zh", "Chinese", "Hans", False, "zh", "zho"),
        _language("ind", "id", "Indonesian", "Latn", True, "id", "ind"),
        _language("khm", "km", "Khmer", "Khmr", False, "km", "khm"),
        _language("lao", "lo", "Lao", "Laoo", False, "lo", "lao"),
        _language("zsm", "ms", "Malay", "Latn", True, "ms", "msa"),
        _language("fil", "tl", "Filipino", "Latn", True, "tl", "tgl"),
        _language("tam", "ta", "Tamil", "Taml", True, "ta", "tam"),
        _language("tha", "th", "Thai", "Thai", False, "th", "tha"),
        _language("vie", "vi", "Vietnamese", "Latn", True, "vi", "vie"),
        _language("eng", "en", "English", "Latn", True, "en", "eng"),
    )
}
"""ISO 639-3 code to language, in the paper's order."""

UNKNOWN = "und"
"""The language of a document before, or without, identification (ISO 639-2 `und`)."""

_ALIASES = {
    alias: language.code
    for language in LANGUAGES.values()
    for alias in (language.code, language.short, language.fasttext, language.cld2)
} | {"fil": "fil", "tl": "fil"}


def language_code(code: str) -> str:
    """The ISO 639-3 code of any of our languages' codes; other codes come back as they are.

    >>> language_code("th"), language_code("msa"), language_code("fra")
    ('tha', 'zsm', 'fra')
    """
    return _ALIASES.get(code.strip().lower(), code.strip().lower())
