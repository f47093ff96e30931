"""Quality rules: a document's measures, compared with its language's thresholds; every rule says why.

The rules are Gopher's for quality and repetition (Rae et al. 2021, https://arxiv.org/abs/2112.11446, table A1), C4's
(https://arxiv.org/abs/1910.10683) and FineWeb-2's (https://arxiv.org/abs/2506.20920), on one segmentation by ICU for all
languages. datatrove's filters are not used: each cuts the text into words again, and their English defaults reject 96 to 99% of
Thai, Khmer and Burmese news. Here each language has its own table in `thresholds/web.toml`, and one without is refused. C4's
rules judge a document, they do not cut lines out of it.

A duplicate n-gram is one that occurred before; the characters of all words that such n-grams cover are counted once. As in
datatrove, spaces do not count as covered but as text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..catalog.languages import LANGUAGES
from .segment import LETTER, SCRIPTS, SPACE, pieces, words
from .thresholds import REPEATED, TOP, Thresholds

WINDOW = 1_000
"""Words at a text's beginning in which distinct word pairs are counted: their share falls with length."""
PROBABILITIES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
"""Of the quantiles that `measured` gives."""

BULLETS = ("•", "-", "–", "*", "·", "▪", "●", "‣", "■", "◦", "➤", "►")
ELLIPSES = ("...", "…")

_PARAGRAPH = re.compile(r"\n{2,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One comparison of a measure with a threshold."""

    reason: str
    """Why a document that breaks it is dropped."""
    measure: str
    """Key of the measures."""
    limit: str
    """Field of `Thresholds`; `min_…` is a floor, `max_…` a ceiling, and what equals it is kept."""
    place: int = 0
    """Which number of a field that has several."""

    def is_broken(self, measures: Mapping[str, float], thresholds: Thresholds) -> bool:
        """Whether the measure is beyond the threshold."""
        limit = getattr(thresholds, self.limit)
        if isinstance(limit, tuple):
            if not limit:
                return False
            limit = limit[self.place]
        value = measures[self.measure]
        return bool(value < limit if self.limit.startswith("min_") else value > limit)


def _rule(reason: str, measure: str, limit: str, place: int = 0) -> Rule:
    return Rule(reason=reason, measure=measure, limit=limit, place=place)


RULES = (
    _rule("too_short", "characters", "min_characters"),
    _rule("too_long", "characters", "max_characters"),
    _rule("too_short", "words", "min_words"),
    _rule("too_long", "words", "max_words"),
    _rule("few_letters", "letters", "min_letters"),
    _rule("foreign_script", "script", "min_script"),
    _rule("repeated_lines", "repeated_lines", "max_repeated_lines"),
    _rule("repeated_lines", "repeated_line_characters", "max_repeated_line_characters"),
    _rule("repeated_paragraphs", "repeated_paragraphs", "max_repeated_paragraphs"),
    _rule("repeated_paragraphs", "repeated_paragraph_characters", "max_repeated_paragraph_characters"),
    *(_rule("repeated_ngrams", f"repeated_{n}grams", "max_repeated_ngrams", i) for i, n in enumerate(REPEATED)),
    *(_rule("frequent_ngram", f"top_{n}gram", "max_top_ngrams", i) for i, n in enumerate(TOP)),
    _rule("keyword_spam", "distinct", "min_distinct"),
    _rule("few_stop_words", "stop_words", "min_stop_words"),
    _rule("few_alphabetic", "alphabetic", "min_alphabetic"),
    _rule("short_words", "word_length", "min_word_length"),
    _rule("long_words", "word_length", "max_word_length"),
    _rule("many_symbols", "symbols", "max_symbols"),
    _rule("many_new_lines", "new_lines", "max_new_lines"),
    _rule("unpunctuated_lines", "punctuated_lines", "min_punctuated_lines"),
    _rule("bullet_lines", "bullet_lines", "max_bullet_lines"),
    _rule("ellipsis_lines", "ellipsis_lines", "max_ellipsis_lines"),
    _rule("short_lines", "short_lines", "max_short_lines"),
    _rule("boilerplate_lines", "boilerplate_lines", "max_boilerplate_lines"),
)
"""All rules; the first that is broken is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the rules say of a document."""

    broken: tuple[str, ...]
    """The reasons of all rules that it breaks, in the order of `RULES`; empty to keep it."""
    value: float
    """What the first of these rules measured."""
    measures: dict[str, float]
    """Measure to value; of a text that is too short or too long, `characters` only."""

    @property
    def reason(self) -> str:
        """The first reason to drop it, empty to keep it."""
        return self.broken[0] if self.broken else ""


def too_short_or_long(text: str, thresholds: Thresholds) -> str:
    """The reason to drop a text for its length, empty to keep it."""
    if len(text) < thresholds.min_characters:
        return "too_short"
    return "too_long" if len(text) > thresholds.max_characters else ""


def judge(text: str, language: str, thresholds: Thresholds) -> Judgement:
    """Measure a text and compare it with every rule; a text of a wrong length is not measured."""
    if reason := too_short_or_long(text, thresholds):
        return Judgement(broken=(reason,), value=float(len(text)), measures={"characters": float(len(text))})
    measures = measure(text, language, thresholds)
    broken = [rule for rule in RULES if rule.is_broken(measures, thresholds)]
    reasons = tuple(dict.fromkeys(rule.reason for rule in broken))
    return Judgement(broken=reasons, value=measures[broken[0].measure] if broken else 0.0, measures=measures)


def measure(text: str, language: str, thresholds: Thresholds) -> dict[str, float]:
    """The measures of a text; shares of nothing are 0, except `distinct`, which is 1.

    Of the thresholds only the word lists and `short_line` matter.
    """
    return {
        "characters": float(len(text)),
        **_character_measures(text, language),
        **_word_measures(text, language, thresholds),
        **_line_measures(text, thresholds),
        **_paragraph_measures(text),
    }


def _share(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else 0.0


def _character_measures(text: str, language: str) -> dict[str, float]:
    cut = pieces(text, language)
    visible = len(text) - _count(cut.classes, SPACE)
    letters = _count(cut.classes, LETTER)
    firsts = cut.classes[cut.starts[cut.is_word]]
    return {
        "letters": _share(letters, visible),
        "script": _share(_count(cut.classes, SCRIPTS[LANGUAGES[language].script]), letters),
        "alphabetic": _share(_count(firsts, LETTER), len(firsts)),
    }


def _count(classes: NDArray[np.uint16], bit: int) -> int:
    return int(np.count_nonzero(classes & bit))


def _word_measures(text: str, language: str, thresholds: Thresholds) -> dict[str, float]:
    found = words(text, language)
    vocabulary: dict[str, int] = {}
    # a word's number is the place of its first occurrence
    numbers = map(vocabulary.setdefault, map(str.casefold, found), range(len(found)))
    ids = np.fromiter(numbers, np.uint64, len(found))
    cut = pieces(text, language)
    lengths = (cut.ends - cut.starts)[cut.is_word]
    ellipses = sum(map(text.count, ELLIPSES))
    return {
        "words": float(len(found)),
        "word_length": _share(lengths.sum(), len(found)),
        "stop_words": float(sum(word in vocabulary for word in thresholds.stop_words)),
        "symbols": _share(max(text.count("#"), ellipses), len(found)),
        "new_lines": _share(text.count("\n"), len(found)),
        **_ngram_measures(ids, lengths, len(text)),
    }


def _ngram_measures(ids: NDArray[np.uint64], lengths: NDArray[np.int64], characters: int) -> dict[str, float]:
    """Repetition of word sequences; `ids` and `lengths` have a number a word."""
    measures = {f"top_{n}gram": 0.0 for n in TOP} | {f"repeated_{n}grams": 0.0 for n in REPEATED} | {"distinct": 1.0}
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    for n, places, is_repeat in _sorted_sequences(ids, REPEATED[-1]):
        repeats = places[1:][is_repeat]
        if n == 2:
            pairs = min(len(places), WINDOW - 1)
            measures["distinct"] = 1 - _share(int(np.count_nonzero(repeats < pairs)), pairs)
        if n in TOP:
            edges = np.concatenate(([0], np.flatnonzero(~is_repeat) + 1, [len(places)]))
            counts = np.diff(edges)
            top = places[edges[:-1][counts == counts.max()]]
            longest = (before[top + n] - before[top]).max()
            measures[f"top_{n}gram"] = min(1.0, _share(counts.max() * longest, characters))
        else:
            depth = np.zeros(len(ids) + 1, np.int64)
            depth[repeats] += 1
            depth[repeats + n] -= 1
            measures[f"repeated_{n}grams"] = _share(lengths[np.cumsum(depth)[:-1] > 0].sum(), characters)
    return measures


def _sorted_sequences(ids: NDArray[np.uint64], longest: int) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.bool_]]]:
    """For sequences of 2 to `longest` words: n, their places with equal sequences together, whether each equals the one before.

    A sequence is a hash with its place in the low bits, so that one sort orders both. Stops where nothing repeats, as no longer
    sequence can.
    """
    low = np.uint64((1 << len(ids).bit_length()) - 1)
    numbers, mixed = np.arange(len(ids), dtype=np.uint64), _mixed(ids)
    hashes = mixed
    for n in range(2, min(longest, len(ids)) + 1):
        hashes = hashes[:-1] * np.uint64(0x9E3779B97F4A7C15) + mixed[n - 1 :]
        order = np.sort((hashes & ~low) | numbers[: len(hashes)])
        is_repeat = (order[1:] & ~low) == (order[:-1] & ~low)
        if not is_repeat.any():
            return
        yield n, (order & low).astype(np.int64), is_repeat


def _mixed(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Small numbers spread over 64 bits (the finalizer of splitmix64)."""
    ids = (ids + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    ids = (ids ^ (ids >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    ids = (ids ^ (ids >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ids ^ (ids >> np.uint64(31))


def _line_measures(text: str, thresholds: Thresholds) -> dict[str, float]:
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    characters, distinct = sum(map(len, lines)), set(lines)
    lowered = text.lower()
    phrases = [phrase for phrase in thresholds.boilerplate + thresholds.notices if phrase in lowered]
    boilerplate = sum(any(phrase in line.lower() for phrase in phrases) for line in lines) if phrases else 0
    return {
        "repeated_lines": _share(len(lines) - len(distinct), len(lines)),
        "repeated_line_characters": _share(characters - sum(map(len, distinct)), characters),
        "punctuated_lines": _share(sum(line.endswith(thresholds.line_endings) for line in lines), len(lines)),
        "bullet_lines": _share(sum(line.startswith(BULLETS) for line in lines), len(lines)),
        "ellipsis_lines": _share(sum(line.endswith(ELLIPSES) for line in lines), len(lines)),
        "short_lines": _share(sum(len(line) <= thresholds.short_line for line in lines), len(lines)),
        "boilerplate_lines": _share(boilerplate, len(lines)),
    }


def _paragraph_measures(text: str) -> dict[str, float]:
    """Repetition of paragraphs; a text without empty lines is one."""
    paragraphs = _PARAGRAPH.split(text.strip("\n")) if "\n\n" in text else []
    characters, distinct = sum(map(len, paragraphs)), set(paragraphs)
    return {
        "repeated_paragraphs": _share(len(paragraphs) - len(distinct), len(paragraphs)),
        "repeated_paragraph_characters": _share(characters - sum(map(len, distinct)), characters),
    }


def measured(texts: Iterable[str], language: str, thresholds: Thresholds) -> dict[str, tuple[float, ...]]:
    """Measure to its quantiles, at `PROBABILITIES`, over the texts of a reference corpus; raises ValueError without a text."""
    columns: dict[str, list[float]] = {}
    for text in texts:
        for name, value in measure(text, language, thresholds).items():
            columns.setdefault(name, []).append(value)
    if not columns:
        raise ValueError("a reference corpus has at least one text")
    return {name: tuple(np.quantile(values, PROBABILITIES).tolist()) for name, values in columns.items()}


def derived(quantiles: Mapping[str, Sequence[float]], lost: float = 0.01) -> dict[str, float | tuple[float, ...]]:
    """Thresholds under which each rule loses a share `lost`, one of `PROBABILITIES`, of the reference texts.

    Floors are the quantile at `lost`, ceilings the one at `1 - lost`. Lengths are left out: what is too short is a choice, and
    no property of the texts. The corpus should be web pages: edited texts have no repetitions at all. Raises ValueError for
    another share.
    """
    low, high = PROBABILITIES.index(lost), PROBABILITIES.index(1 - lost)
    found: dict[str, list[float]] = {}
    for rule in RULES:
        if rule.measure not in ("characters", "words"):
            found.setdefault(rule.limit, []).append(quantiles[rule.measure][low if rule.limit.startswith("min_") else high])
    found["min_stop_words"] = [math.floor(value) for value in found["min_stop_words"]]
    return {limit: tuple(values) if len(values) > 1 else values[0] for limit, values in found.items()}
