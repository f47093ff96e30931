"""Constraints on an answer that code can check: the built-in suite's instructions.

An instruction follows from its text, and what is checked must be what a careful reader of the text would check: the checks are
few, exact and in plain sight beside the request, and an empty answer meets none. Letters are compared without regard to case,
marks and spaces around the whole answer do not count. Counting words is left to languages that write spaces between them, and
counting sentences to those that end them with a mark.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

Argument = int | str | list[str | int]

_SENTENCE_END = re.compile(r"[.!?。！？။។]+[\"”’」)]*(?=\s|$|(?<=[。！？။។]))")
_BULLET = re.compile(r"[-*•]\s+\S")
_QUOTES = {'"': '"', "“": "”", "'": "'", "‘": "’", "「": "」", "«": "»"}
_SCRIPT_NAMES = {
    "Latn": "LATIN", "Thai": "THAI", "Laoo": "LAO", "Khmr": "KHMER", "Mymr": "MYANMAR", "Taml": "TAMIL", "Hans": "CJK",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """One kind of constraint."""

    argument: type
    """Of what it is told: int, str, or list."""
    is_met: Callable[[str, Any], bool]
    """Whether an answer (NFC, stripped, not empty) meets it."""


def lines(answer: str) -> list[str]:
    """The lines that hold text."""
    return [line.strip() for line in answer.splitlines() if line.strip()]


def _bullets(answer: str, count: int) -> bool:
    found = lines(answer)
    return len(found) == count and all(_BULLET.match(line) for line in found)


def _numbered(answer: str, count: int) -> bool:
    found = lines(answer)
    return len(found) == count and all(re.match(rf"{i}[.)]\s*\S", line) for i, line in enumerate(found, start=1))


def _sentences(answer: str, count: int) -> bool:
    ends = list(_SENTENCE_END.finditer(answer))
    return len(ends) == count and ends[-1].end() == len(answer)


def _count(answer: str, text: str) -> int:
    """How often a text occurs; in Latin letters as a word, not as a part of one (Indonesian `ikan` is not in `memberikan`)."""
    text = text.casefold()
    if all(unicodedata.name(char, "").startswith("LATIN") for char in text if char.isalpha()):
        return len(re.findall(rf"(?<!\w){re.escape(text)}(?!\w)", answer.casefold()))
    return answer.casefold().count(text)


def _contains_all(answer: str, wanted: list[str]) -> bool:
    return all(_count(answer, text) for text in wanted)


def _contains_none(answer: str, unwanted: list[str]) -> bool:
    return not any(_count(answer, text) for text in unwanted)


def _begins(answer: str, beginning: str) -> bool:
    return answer.casefold().startswith(beginning.casefold())


def _ends(answer: str, end: str) -> bool:
    return answer.casefold().endswith(end.casefold()) or _bare(answer).endswith(end.casefold())


def _repeated(answer: str, word_and_count: list[str | int]) -> bool:
    """The word so often, and nothing else but spaces and marks."""
    word, count = str(word_and_count[0]), int(word_and_count[1])
    rest = answer.casefold().replace(word.casefold(), "\n")
    return _count(answer, word) == count and not any(unicodedata.category(c)[0] in "LMN" for c in rest)


def _times(answer: str, word_and_count: list[str | int]) -> bool:
    return _count(answer, str(word_and_count[0])) == int(word_and_count[1])


def _json_keys(answer: str, keys: list[str]) -> bool:
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", answer, flags=re.DOTALL)
    try:
        value = json.loads(fenced[1] if fenced else answer)
    except ValueError:
        return False
    return isinstance(value, dict) and set(value) == set(keys)


def _script(answer: str, script: str) -> bool:
    letters = [char for char in answer if unicodedata.category(char)[0] == "L"]
    return bool(letters) and all(unicodedata.name(char, "").startswith(_SCRIPT_NAMES[script]) for char in letters)


def _separated(answer: str, separator_and_count: list[str | int]) -> bool:
    parts = answer.split(str(separator_and_count[0]))
    return len(parts) == int(separator_and_count[1]) and all(part.strip() for part in parts)


def _is_number(answer: str, number: int) -> bool:
    bare = _bare(answer)
    return bare.isdecimal() and int(bare) == number


def _is_quoted(answer: str, _: int) -> bool:
    return len(answer) > 2 and _QUOTES.get(answer[0]) == answer[-1]


def _characters(answer: str) -> int:
    """Characters without spaces; a mark above or below a letter is part of it."""
    return sum(unicodedata.category(char)[0] not in "MZC" for char in answer)


def _bare(answer: str) -> str:
    """The answer in lower case without spaces and marks around it."""
    kept = answer.casefold()
    while kept and unicodedata.category(kept[-1])[0] in "PZC":
        kept = kept[:-1]
    return kept


CONSTRAINTS: dict[str, Constraint] = {
    "lines": Constraint(argument=int, is_met=lambda answer, n: len(lines(answer)) == n),
    "bullets": Constraint(argument=int, is_met=_bullets),
    "numbered": Constraint(argument=int, is_met=_numbered),
    "sentences": Constraint(argument=int, is_met=_sentences),
    "words": Constraint(argument=int, is_met=lambda answer, n: len(answer.split()) == n),
    "min_words": Constraint(argument=int, is_met=lambda answer, n: len(answer.split()) >= n),
    "max_words": Constraint(argument=int, is_met=lambda answer, n: len(answer.split()) <= n),
    "min_characters": Constraint(argument=int, is_met=lambda answer, n: _characters(answer) >= n),
    "max_characters": Constraint(argument=int, is_met=lambda answer, n: _characters(answer) <= n),
    "contains": Constraint(argument=list, is_met=_contains_all),
    "excludes": Constraint(argument=list, is_met=_contains_none),
    "begins": Constraint(argument=str, is_met=_begins),
    "ends": Constraint(argument=str, is_met=_ends),
    "equals": Constraint(argument=str, is_met=lambda answer, text: _bare(answer) == _bare(text)),
    "one_of": Constraint(argument=list, is_met=lambda answer, texts: _bare(answer) in [_bare(text) for text in texts]),
    "uppercase": Constraint(argument=int, is_met=lambda answer, _: answer.isupper()),
    "lowercase": Constraint(argument=int, is_met=lambda answer, _: answer.islower()),
    "number": Constraint(argument=int, is_met=_is_number),
    "repeated": Constraint(argument=list, is_met=_repeated),
    "times": Constraint(argument=list, is_met=_times),
    "separated": Constraint(argument=list, is_met=_separated),
    "json_keys": Constraint(argument=list, is_met=_json_keys),
    "script": Constraint(argument=str, is_met=_script),
    "quoted": Constraint(argument=int, is_met=_is_quoted),
}
"""Name to constraint. `uppercase`, `lowercase` and `quoted` are told 1; `repeated` and `times` a word and how often;
`separated` a separator and the number of parts; `script` an ISO 15924 code. `repeated` allows nothing else
beside its word."""


def met(answer: str, checks: Mapping[str, Argument]) -> dict[str, bool]:
    """For each check whether the answer meets it; an empty answer meets none."""
    text = unicodedata.normalize("NFC", answer).strip()
    return {name: bool(text) and CONSTRAINTS[name].is_met(text, argument) for name, argument in checks.items()}


def problem_of(checks: Mapping[str, Argument]) -> str:
    """What is wrong with an item's checks, empty for nothing."""
    if not checks:
        return "needs at least one check"
    for name, argument in checks.items():
        if name not in CONSTRAINTS:
            return f"{name!r} is no constraint; did you mean {get_close_matches(name, CONSTRAINTS, n=1, cutoff=0.0)[0]!r}?"
        if not isinstance(argument, CONSTRAINTS[name].argument):
            return f"{name} needs {CONSTRAINTS[name].argument.__name__}, not {argument!r}"
        if name in ("repeated", "times", "separated") and [type(part) for part in argument] != [str, int]:  # type: ignore[union-attr]
            return f"{name} needs a text and a number, not {argument!r}"
        if name == "script" and argument not in _SCRIPT_NAMES:
            return f"script must be one of {', '.join(_SCRIPT_NAMES)}, not {argument!r}"
    return ""
