"""Answers that follow an instruction of SEA-IFEval, and answers that do not, in the language they should be in.

The sentences are our own. What follows the instruction is built from its arguments, so an answer that a rule rejects is either
a fault of the rule or of the row; `None` where no answer can be built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from itertools import cycle, islice
from typing import Any

from sea_lion.eval.sea_helm.instructions import CONSTRAINED
from sea_lion.eval.sea_helm.language_id import code_of

SENTENCES = {
    "en": "The small library near the harbour keeps many books about the history of ships and the trade of these islands.",
    "id": "Perpustakaan kecil di dekat pelabuhan menyimpan banyak buku tentang sejarah kapal dan perdagangan di negeri kita.",
    "vi": "Thư viện nhỏ gần bến cảng giữ nhiều sách về lịch sử tàu thuyền và nghề buôn gia vị của vùng này.",
    "th": "ตลาดริมน้ำแห่งนี้มีร้านขายผลไม้ ดอกไม้ และขนมพื้นบ้านจากหมู่บ้านใกล้เคียง",
    "tl": "Ang maliit na aklatan malapit sa daungan ay may maraming aklat tungkol sa kasaysayan ng mga barko at ng kalakalan.",
    "jv": "Perpustakaan cilik sing ana ing cedhak pelabuhan iku nyimpen buku akeh babagan lelakone prau lan dagangan rempah, "
    "mula akeh bocah sing seneng maca ana ing kana saben dina.",
    "su": "Perpustakaan leutik anu aya di deukeut palabuhan téh nyimpen loba buku ngeunaan sajarah parahu jeung padagangan "
    "rempah, ku kituna loba barudak anu resep maca di dinya unggal poé.",
    "ms": "Perpustakaan kecil berhampiran pelabuhan itu menyimpan banyak buku mengenai sejarah kapal kerana bandar kami kaya.",
    "ta": "துறைமுகத்திற்கு அருகில் உள்ள சிறிய நூலகத்தில் கப்பல்களின் வரலாறு பற்றிய பல புத்தகங்கள் உள்ளன.",
    "my": "ဆိပ်ကမ်းအနီးရှိ စာကြည့်တိုက်ငယ်တွင် သင်္ဘောသမိုင်းအကြောင်း စာအုပ်များစွာ ရှိသည်။",
}
"""One sentence a language, by SEA-HELM's code: no digit, no word that the benchmark forbids."""

Builder = Callable[[str, Mapping[str, Any], bool], str | None]
"""Makes an answer of a sentence and the arguments; the last argument is whether it follows the instruction."""


def example_answer(instruction: str, kwargs: Mapping[str, Any], language: str, prompt: str) -> str | None:
    """An answer that follows the instruction; `None` where the language has no sentence here or the answer is not known.

    `prompt` is what the model was asked; no answer needs it, since the data name what is to be repeated.
    """
    return _answer(instruction, kwargs, language, follows=True)


def failing_answer(instruction: str, kwargs: Mapping[str, Any], language: str) -> str | None:
    """An answer in the right language that does not follow the instruction; `None` where every answer does."""
    return _answer(instruction, kwargs, language, follows=False)


def _answer(instruction: str, kwargs: Mapping[str, Any], language: str, *, follows: bool) -> str | None:
    short = code_of(language)
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    if instruction == "language:response_language":
        other = next(code for code in ("en", "id") if code != kwargs["response_language"])
        return _times(SENTENCES.get(kwargs["response_language"] if follows else other), 2)
    if instruction == "detectable_format:constrained_response":
        kwargs = {"choice": CONSTRAINED.get(short, ("",))[0]}
    return BUILDERS[instruction](SENTENCES[short], kwargs, follows) if short in SENTENCES else None


def _times(text: str | None, count: int) -> str | None:
    return None if text is None or count < 0 else " ".join([text] * count)


def _count(relation: str, number: int, follows: bool) -> int | None:
    """A count that holds, or does not, against the number; `None` where there is none."""
    found = {
        ("at least", True): number,
        ("at least", False): number - 1,
        ("less than", True): number - 1,
        ("less than", False): number,
        ("exactly", True): number,
        ("exactly", False): number + 1,
    }[relation, follows]
    return found if found >= 0 else None


def _repeated(count: int | None, between: str, piece: Callable[[int], str]) -> str | None:
    return None if count is None else between.join(piece(number) for number in range(1, count + 1))


def _words(sentence: str, kwargs: Mapping[str, Any], follows: bool) -> str | None:
    count = _count(kwargs["relation"], kwargs["num_words"], follows)
    return None if count is None else " ".join(islice(cycle(re.findall(r"\w+", sentence)), count))


def _sentences(sentence: str, kwargs: Mapping[str, Any], follows: bool) -> str | None:
    return _repeated(_count(kwargs["relation"], kwargs["num_sentences"], follows), "***", lambda _: sentence)


def _paragraphs(sentence: str, kwargs: Mapping[str, Any], follows: bool) -> str | None:
    return _repeated(_count("exactly", kwargs["num_paragraphs"], follows), "\n***\n", lambda _: sentence)


def _placeholders(sentence: str, kwargs: Mapping[str, Any], follows: bool) -> str | None:
    names = _repeated(_count("at least", kwargs["num_placeholders"], follows), " ", lambda _: f"[{sentence}]")
    return None if names is None else f"{sentence} {names}"


def _bullets(sentence: str, kwargs: Mapping[str, Any], follows: bool) -> str | None:
    return _repeated(_count("exactly", kwargs["num_bullets"], follows), "\n", lambda number: f"{'*-'[number % 2]} {sentence}")


def _sections(sentence: str, kwargs: Mapping[str, Any], follows: bool) -> str | None:
    title = kwargs["section_title"]
    return _repeated(_count("exactly", kwargs["num_sections"], follows), "\n\n", lambda number: f"{title} {number}\n{sentence}")


def _highlights(sentence: str, kwargs: Mapping[str, Any], follows: bool) -> str | None:
    marked = _repeated(_count("at least", kwargs["num_highlights"], follows), "\n", lambda _: f"*{sentence}*")
    return None if marked is None else f"{sentence}\n{marked}"


def _forbidden(sentence: str, kwargs: Mapping[str, Any], follows: bool) -> str | None:
    return sentence if follows else f"{sentence} {kwargs['forbidden_words'][-1]}."


def _mentions(sentence: str, word: str, kwargs: Mapping[str, Any], follows: bool) -> str | None:
    count = _count(kwargs["relation"], kwargs["frequency"], follows)
    return None if count is None else f"{sentence} {', '.join([word] * count)}".strip()


BUILDERS: Mapping[str, Builder] = {
    "combination:repeat_prompt": lambda text, given, follows: f"{given['prompt_to_repeat']}\n\n{text}" if follows else text,
    "combination:two_responses": lambda text, given, follows: f"{text}\n******\n{text}" if follows else text,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": lambda text, given, follows: (
        f"{text}\n\n{given['postscript_marker']} {text}" if follows else text
    ),
    "detectable_format:constrained_response": lambda text, given, follows: (
        text if not follows else f"{text} {given['choice']}" if given["choice"] else None
    ),
    "detectable_format:json_format": lambda text, given, follows: (
        f"```json\n{json.dumps({'text': text}, ensure_ascii=False)}\n```" if follows else text
    ),
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": lambda text, given, follows: f"<<{text}>>\n\n{text}" if follows else text,
    "keywords:existence": lambda text, given, follows: f"{text} {', '.join(given['keywords'])}." if follows else text,
    "keywords:forbidden_words": _forbidden,
    "keywords:frequency": lambda text, given, follows: _mentions(text, given["keyword"], given, follows),
    "keywords:number_frequency": lambda text, given, follows: _mentions(text, str(given["number"]), given, follows),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "startend:end_checker": lambda text, given, follows: f"{text} {given['end_phrase']}" if follows else text,
    "startend:first_word": lambda text, given, follows: f"{given['first_word']}, {text}" if follows else text,
    "startend:quotation": lambda text, given, follows: f'"{text}"' if follows else text,
}
"""Instruction to builder; `language:response_language` is built of other languages' sentences."""
