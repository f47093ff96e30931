"""What the benchmark's answers look like: the tags in front of them, the options' words, and what these stand for.

Tags and options are facts of the benchmark that its data files do not carry (release v1.0.0 kept them in its code), so they are
tables here; its prompts are read from the benchmark itself. In 2025 a language's options are fixed and stand for canonical
labels; in 2026 the options are whatever labels the data hold. Languages are the benchmark's own two-letter codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ...catalog.errors import CorruptInput, SeaLionError

Label = str | int
"""A canonical label."""
Kind = Literal["answer", "summary", "translation"]
"""What a tag announces."""

NULL_2026 = "null"
"""Stands for an answer that could not be read, in every label task of 2026."""

_ANSWERS = {
    "id": "Jawaban:", "jv": "Jawaban:", "su": "Jawaban:", "ms": "Jawapan:", "vi": "Câu trả lời:", "th": "คำตอบ:",
    "ta": "பதில்:", "tl": "Sagot:", "lo": "ຄຳຕອບ:", "en": "Answer:", "my": "အဖြေ:", "km": "ចម្លើយ៖",
    "zh": "答案：", "zh-s": "答案：", "zh-t": "答案：",
}  # fmt: skip
_SUMMARIES = {"id": "Rangkuman:", "vi": "Bản tóm tắt:", "th": "บทสรุป:", "ta": "சுருக்கம்:", "tl": "Buod:"}
_TRANSLATIONS = {
    "id": "Terjemahan:", "vi": "Bản dịch:", "th": "คำแปล:", "ta": "மொழிபெயர்ப்பு:", "tl": "Salin:",
    "jv": "Terjemahan:", "su": "Tarjamahan:",
}  # fmt: skip

TAGS: dict[str, dict[Kind, dict[str, str]]] = {
    "sea_helm_2025": {"answer": _ANSWERS, "summary": _SUMMARIES, "translation": _TRANSLATIONS},
    "sea_helm_2026": {
        "answer": _ANSWERS | {"my": "အဖြေ-"},
        "summary": _SUMMARIES | {"my": "အကျဉ်းချုပ်-"},
        "translation": _TRANSLATIONS
        | {"ms": "Terjemahan:", "my": "ဘာသာပြန်ချက်-", "lo": "ຄຳແປ:", "km": "ការបរប្រែ៖", "zh": "翻译：", "zh-s": "翻译："},
    },
}
"""Profile, kind and language to the tag in front of the answer. Translations into English carry the language's own tag."""

COLONS = {"km": ":៖", "zh": ":：", "zh-s": ":：", "zh-t": ":："}
"""In 2025, languages whose tag may end in either of two colons (or, by a slip of the benchmark's, a `|`)."""
CAPITALS = ("id", "vi", "tl", "jv", "su")
"""In 2025, languages in which a text's tag may start in upper or lower case (or, by the same slip, with a `|`)."""

_AB: dict[str, Label] = {"a": 0, "b": 1}
_ABCD: dict[str, Label] = {"a": 0, "b": 1, "c": 2, "d": 3}
_NLI: dict[str, Label] = {"a": "entailment", "b": "contradiction", "c": "neutral"}
_SENTIMENTS: tuple[Label, ...] = ("positive", "negative", "neutral")


def _sentiments(*words: str) -> dict[str, Label]:
    return dict(zip(words, _SENTIMENTS, strict=False))


_TRUTH = {"id": {"benar": 1, "salah": 0}, "ta": {"உண்மை": 1, "பொய்": 0}}
_CONSENT = {"ya": 1, "tidak": 0}
"""Indonesian rows that offer yes and no: an answer of true or false is then none, and the other way round."""

_SAME_EVERYWHERE: dict[str, tuple[dict[str, Label], Label]] = {
    "nli": (_NLI, "none"),
    "causal": (_AB, 2),
    "metaphor": (_AB, 2),
    "mp-r": (_AB, 2),
    "belebele-qa-mc": (_ABCD, 4),
    "qa-mc": (_ABCD, 4),
    "kalahi-mc": ({letter: letter.upper() for letter in "abcd"}, "none"),
    "paraphrase": ({"a": "paraphrase", "b": "non-paraphrase"}, "none"),
}
_SENTIMENT: dict[str, dict[str, Label]] = {
    "id": _sentiments("positif", "negatif", "netral"),
    "jv": _sentiments("positif", "negatif", "netral"),
    "su": _sentiments("positip", "negatip", "netral"),
    "vi": _sentiments("tích cực", "tiêu cực", "trung lập"),
    "th": _sentiments("แง่บวก", "แง่ลบ", "เฉยๆ"),
    "ta": _sentiments("நேர்மறை", "எதிர்மறை"),
    "tl": _sentiments("positibo", "negatibo", "neutral"),
}
_TOXICITY: dict[str, dict[str, Label]] = {
    "id": {"bersih": 0, "kasar": 1, "benci": 2},
    "vi": {"sạch": 0, "công kích": 1, "thù ghét": 2},
    "th": {"y": 1, "n": 0},
    "tl": {"malinis": 0, "mapoot": 1},
}
_NULLS: dict[str, Label] = {"sentiment": "none", "toxicity": 3}
PRAGMATICS = ("pragmatic-single", "pragmatic-pair")
LABEL_TASKS = ("sentiment", "toxicity", *PRAGMATICS, *_SAME_EVERYWHERE)
"""Tasks whose answer is one of a few options."""

_TRUTH_WORDS = {"true": 1, "false": 0, "yes": 1, "no": 0, "1": 1, "0": 0}


def tag_of(profile: str, kind: Kind, language: str) -> str:
    """The tag in front of an answer; raises SeaLionError for a language that has none."""
    tags = TAGS[profile][kind]
    if language not in tags:
        raise SeaLionError(f"{profile} has no {kind} tag for {language!r}; it has {', '.join(sorted(tags))}")
    return tags[language]


def options_2025(task: str, language: str, choices: str = "") -> dict[str, Label]:
    """Option (lower case) to canonical label; `choices` is what a pragmatics row says it offers.

    Raises SeaLionError for a task without options, or a language that the task has not.
    """
    if task in _SAME_EVERYWHERE:
        return dict(_SAME_EVERYWHERE[task][0])
    by_language: Mapping[str, Mapping[str, Label]] = {"sentiment": _SENTIMENT, "toxicity": _TOXICITY}.get(task, {})
    if task in PRAGMATICS:
        by_language = _TRUTH
        if task == "pragmatic-single" and language == "id" and {"ya", "yes"} & set(choices.lower().replace("/", " ").split()):
            by_language = {"id": _CONSENT}
    if language not in by_language:
        raise SeaLionError(f"sea_helm_2025 has no task {task!r} in {language!r}")
    return dict(by_language[language])


def null_2025(task: str) -> Label:
    """What stands for an answer that could not be read."""
    if task in _SAME_EVERYWHERE:
        return _SAME_EVERYWHERE[task][1]
    return _NULLS.get(task, 2)


def gold_2025(task: str, target: Any, where: str) -> Label:
    """The canonical label of a row's `label`; raises CorruptInput for one that is no label of the task."""
    if task in PRAGMATICS:
        word = str(target).strip().lower()
        if word in _TRUTH_WORDS:
            return _TRUTH_WORDS[word]
    elif task in ("mp-r", "paraphrase") and str(target).lower() in _AB:
        return _SAME_EVERYWHERE[task][0][str(target).lower()]
    elif isinstance(target, (str, int)) and not isinstance(target, bool) and target in _canonical(task):
        return target
    raise CorruptInput(task, where, f"label {target!r} is none of the task's")


def _canonical(task: str) -> set[Label]:
    """The canonical labels of a task, in whatever language."""
    if task in _SAME_EVERYWHERE:
        return set(_SAME_EVERYWHERE[task][0].values())
    return set(_SENTIMENTS) if task == "sentiment" else {0, 1, 2}
