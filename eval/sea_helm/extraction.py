"""Reading the answer out of what a model wrote.

2025 is strict: the first tag counts, the rest of its line is the answer, and an option must stand there alone; every
explanation beside it makes the answer unreadable. 2026 is lenient with options (any word that starts with one passes, the
benchmark's own echoed format line among them) and stricter with texts. Both are reproduced, not mended: the scores are to be
the benchmark's; scorers count what was lost or gained and say so.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from functools import lru_cache

from .labels import CAPITALS, COLONS, NULL_2026, Kind, Label, null_2025, options_2025, tag_of

_EDGES = string.punctuation + " \n"


def bare(text: str) -> str:
    """`text` in lower case, without punctuation and blanks at its ends, with single blanks inside."""
    return " ".join(text.lower().strip(_EDGES).split())


def label_2025(response: str | None, task: str, language: str, choices: str = "") -> Label:
    """The canonical label that `response` answers with, or the task's null label."""
    line = _tagged_line((response or "").lower(), _strict_label_tag(language))
    return options_2025(task, language, choices).get(bare(line), null_2025(task))


def text_2025(response: str | None, kind: Kind, language: str) -> str:
    """The text behind the tag: the first line with anything on it, or the whole response where there is no tag."""
    return _tagged_line(response or "", _strict_text_tag(kind, language))


def label_2026(response: str | None, language: str, labels: Sequence[str]) -> str:
    """The label out of `labels` (as they are written there) that `response` answers with, or `null`."""
    response = response or ""
    found = _lenient_label(language, tuple(labels)).search(response)
    return _by_bare_word(labels).get(bare(found.group(1) if found else response), NULL_2026)


def is_word_start(response: str | None, language: str, labels: Sequence[str]) -> bool:
    """Whether 2026 reads an option out of the first letters of a longer word (`Tag: ANSWER` for A)."""
    found = _lenient_label(language, tuple(labels)).search(response or "")
    return bool(found and (response or "")[found.end() : found.end() + 1].isalpha())


def text_2026(response: str | None, kind: Kind, language: str) -> str:
    """The rest of the line behind the tag (its case counts), or the whole response where there is no tag."""
    response = response or ""
    found = re.search(rf"{tag_of('sea_helm_2026', kind, language)}[\s`*]*(.*)", response)
    return (found.group(1) if found else response).strip()


def _tagged_line(text: str, tag: re.Pattern[str]) -> str:
    found = tag.search(text)
    return (found.group(1).strip("$") if found else text).strip()


def _ending(tag: str, language: str) -> str:
    """The tag with the benchmark's class of colons."""
    return f"{re.escape(tag[:-1])}[|{COLONS[language]}]" if language in COLONS else re.escape(tag)


@lru_cache(maxsize=64)
def _strict_label_tag(language: str) -> re.Pattern[str]:
    return re.compile(_ending(tag_of("sea_helm_2025", "answer", language).lower(), language) + r"(\s*.*)")


@lru_cache(maxsize=64)
def _strict_text_tag(kind: Kind, language: str) -> re.Pattern[str]:
    tag = tag_of("sea_helm_2025", kind, language)
    if language in CAPITALS:
        return re.compile(f"[{tag[0].upper()}|{tag[0].lower()}]{re.escape(tag[1:])}" + r"(\s*.*)")
    return re.compile(_ending(tag, language) + r"(\s*.*)")


@lru_cache(maxsize=256)
def _lenient_label(language: str, labels: tuple[str, ...]) -> re.Pattern[str]:
    options = "|".join(re.escape(label) for label in dict.fromkeys(labels))
    return re.compile(rf"{tag_of('sea_helm_2026', 'answer', language)}[\s*]*(?:({options}))+", re.IGNORECASE)


def _by_bare_word(labels: Sequence[str]) -> Mapping[str, str]:
    return {bare(label): label for label in labels}
