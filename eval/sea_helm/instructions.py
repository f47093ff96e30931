"""SEA-IFEval's 21 kinds of instruction: whether an answer does what it was told, by rules a program can check.

Every rule is SEA-HELM's, with what is odd about it, since a score that agrees with the official one is what this is for: a
word is a run of letters (`anak-anak` is two, a Tamil word falls apart at its vowel signs), a sentence is what stands between
three asterisks, a keyword is read as a regular expression. The two profiles differ in two rules, section numbers and Filipino
keywords, marked below; `rules_of` says which hold. A loose reading of answers, as in the English IFEval, is refused: SEA-HELM
has none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from string import punctuation
from typing import Any

from .language_id import code_of, detected_language, is_language

CONSTRAINED: Mapping[str, tuple[str, str, str]] = {
    "en": ("My answer is yes.", "My answer is no.", "My answer is maybe."),
    "id": ("Jawaban saya adalah ya.", "Jawaban saya adalah tidak.", "Jawaban saya adalah mungkin."),
    "vi": ("Câu trả lời của tôi là có.", "Câu trả lời của tôi là không.", "Câu trả lời của tôi là có thể."),
    "th": ("คำตอบของฉันคือใช่", "คำตอบของฉันคือไม่", "คำตอบของฉันคืออาจจะ"),
    "tl": ("Ang sagot ko ay oo.", "Ang sagot ko ay hindi.", "Ang sagot ko ay siguro."),
    "jv": ("Jawabanku ya.", "Jawabanku ora.", "Jawabanku mungkin."),
    "su": ("Jawapan abdi enya.", "Jawapan abdi henteu.", "Jawapan abdi meureun."),
}
"""The answers among which `constrained_response` lets one choose: yes, no, maybe. Those that the 2026 release adds for other
languages are not known here: no answer passes, and the scorer says so."""

UNCOUNTED_WORDS = frozenset({"th", "lo", "km", "my"})
"""Languages whose words are not counted: written without spaces, they have none that a program would find."""

_WHOLE_WORDS = {
    "sea_helm_2025": frozenset({"en", "id", "vi", "tl", "jv", "su"}),
    "sea_helm_2026": frozenset({"en", "id", "vi", "jv", "su", "ms"}),
}
_SECTION_GAP = {"sea_helm_2025": r"\s*", "sea_helm_2026": r"\s+"}
_COMPARE: Mapping[str, Callable[[int, int], bool]] = {
    "at least": int.__ge__,
    "less than": int.__lt__,
    "exactly": int.__eq__,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the rules depend on besides answer and arguments."""

    language: str
    """The task's, as SEA-HELM's two-letter code."""
    profile: str
    """`sea_helm_2025` or `sea_helm_2026`."""
    matches_whole_words: bool
    """Whether keywords are whole words in any case; else they are pieces of text in their own case."""
    section_gap: str
    """Pattern of what stands between a section's title and its number."""


Check = Callable[[str, Mapping[str, Any], Rules], bool]


def rules_of(profile: str, language: str) -> Rules:
    """The rules of a profile in a language (either code); raises ValueError for a profile that is neither of the two."""
    if profile not in _SECTION_GAP:
        raise ValueError(f"{profile}: no SEA-HELM profile; there are {', '.join(_SECTION_GAP)}")
    short = code_of(language)
    return Rules(
        language=short,
        profile=profile,
        matches_whole_words=short in _WHOLE_WORDS[profile],
        section_gap=_SECTION_GAP[profile],
    )


def is_scored(instruction: str, rules: Rules) -> bool:
    """Whether an instruction counts in this language: all but the number of words where words are not counted."""
    return instruction != "length_constraints:number_words" or rules.language not in UNCOUNTED_WORDS


def is_checkable(instruction: str, rules: Rules) -> bool:
    """Whether what the instruction asks for in this language is known here."""
    return instruction != "detectable_format:constrained_response" or rules.language in CONSTRAINED


def follows(instruction: str, answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    """Whether an answer follows an instruction (`keywords:existence`), whatever language it is in.

    `kwargs` are the instruction's arguments in the data; those that are null do not count. Raises KeyError for an unknown
    instruction or a missing argument, ValueError for words to be counted where that cannot be done.
    """
    return INSTRUCTIONS[instruction](answer, {name: value for name, value in kwargs.items() if value is not None}, rules)


def _holds(count: int, relation: str, number: Any) -> bool:
    return _COMPARE[relation](count, int(number))


def _number_words(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    if rules.language in UNCOUNTED_WORDS:
        raise ValueError(f"words are not counted in {rules.language}: the question is to be left out")
    return _holds(len(re.findall(r"\w+", answer)), kwargs["relation"], kwargs["num_words"])


def _number_sentences(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    sentences = [part for part in answer.strip("*").split("***") if part.strip()]
    return _holds(len(sentences), kwargs["relation"], kwargs["num_sentences"])


def _number_paragraphs(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    return sum(bool(part.strip()) for part in re.split(r"\s?\*{3}\s?", answer)) == int(kwargs["num_paragraphs"])


def _number_placeholders(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    return sum(bool(name.strip()) for name in re.findall(r"\[(.*?)\]", answer)) >= int(kwargs["num_placeholders"])


def _postscript(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    parts = [re.escape(part) for part in re.findall(r"[^.]+\.?", kwargs["postscript_marker"].lower())]
    return re.search(r"\s?".join(parts), answer.lower()) is not None


def _title(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    return any(found.strip("<>").strip() for found in re.findall(r"<<[^\n]+>>", answer))


def _number_bullet_lists(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    return len(re.findall(r"^[^\S\n]*[*-] ", answer, flags=re.MULTILINE)) == int(kwargs["num_bullets"])


def _multiple_sections(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    heading = rf"\b{re.escape(kwargs['section_title'])}{rules.section_gap}\w+"
    return len(re.findall(heading, answer)) == int(kwargs["num_sections"])


def _number_highlighted_sections(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    # A line ends what it begins: the stars of a list's items enclose nothing.
    found = sum(_enclosed(line, mark) for line in answer.split("\n") for mark in ("*", "**"))
    return found >= int(kwargs["num_highlights"])


def _enclosed(line: str, mark: str) -> int:
    """Pieces of a line with content between a mark and the next one, every mark belonging to one piece."""
    pieces = line.split(mark)
    closed = pieces[1:-1:2]  # what follows the last mark is closed by none
    return sum(bool(piece.strip("* \t")) for piece in closed)


def _json_format(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    text = answer.strip()
    text = re.sub(r"\A```(?:json|Json|JSON)?", "", text)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):  # the second: brackets nested past the reader's depth
        return False
    return True


def _constrained_response(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    return any(sentence in answer for sentence in CONSTRAINED.get(rules.language, ()))


def _first_word(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    return answer.strip().lower().startswith(kwargs["first_word"].strip().lower())


def _end_checker(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    return answer.strip().lower().endswith(kwargs["end_phrase"].strip().lower())


def _quotation(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"' and bool(text[1:-1].strip())


def _times(keyword: str, answer: str, rules: Rules) -> int:
    """How often a keyword stands in an answer. It is read as a pattern where it is a whole word, as SEA-HELM does."""
    if not rules.matches_whole_words:
        return answer.count(keyword)
    try:
        pattern = re.compile(rf"\b{keyword}\b", flags=re.IGNORECASE)
    except re.error:  # `c++`, at which SEA-HELM stops
        pattern = re.compile(rf"\b{re.escape(keyword)}\b", flags=re.IGNORECASE)
    return sum(1 for _ in pattern.finditer(answer))


def _existence(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    return all(_times(keyword, answer, rules) for keyword in kwargs["keywords"])


def _forbidden_words(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    return not any(_times(word, answer, rules) for word in kwargs["forbidden_words"])


def _frequency(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    return _holds(_times(kwargs["keyword"], answer, rules), kwargs["relation"], kwargs["frequency"])


def _number_frequency(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    return _holds(answer.count(str(kwargs["number"])), kwargs["relation"], kwargs["frequency"])


def _repeat_prompt(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    text, prompt = answer.strip().lower(), kwargs["prompt_to_repeat"].strip().lower()
    return text.startswith(prompt) and bool(text[len(prompt) :].strip())


def _two_responses(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    return sum(bool(part.strip(punctuation + " \t\r\n")) for part in answer.split("******")) == 2


def _response_language(answer: str, kwargs: Mapping[str, Any], rules: Rules) -> bool:
    return is_language(detected_language(answer)[0], kwargs["response_language"], rules.profile)


INSTRUCTIONS: Mapping[str, Check] = {
    "combination:repeat_prompt": _repeat_prompt,
    "combination:two_responses": _two_responses,
    "detectable_content:number_placeholders": _number_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": _constrained_response,
    "detectable_format:json_format": _json_format,
    "detectable_format:multiple_sections": _multiple_sections,
    "detectable_format:number_bullet_lists": _number_bullet_lists,
    "detectable_format:number_highlighted_sections": _number_highlighted_sections,
    "detectable_format:title": _title,
    "keywords:existence": _existence,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:frequency": _frequency,
    "keywords:number_frequency": _number_frequency,
    "language:response_language": _response_language,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_words": _number_words,
    "startend:end_checker": _end_checker,
    "startend:first_word": _first_word,
    "startend:quotation": _quotation,
}
"""Instruction, as the data name it, to its check of (answer, arguments, rules)."""
