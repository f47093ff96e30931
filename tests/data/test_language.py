"""The metadata gate and the identification of languages."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from sea_lion.catalog.languages import LANGUAGES
from sea_lion.data.language import claimed, identify
from sea_lion.data.warc import Claim

ARTICLES = files("sea_lion").joinpath("data/sample/articles")


def texts(language: str) -> list[str]:
    rows = map(json.loads, ARTICLES.joinpath(f"{language}.jsonl").read_text("utf-8").splitlines())
    return ["\n".join(row["paragraphs"]) for row in rows]


def claim(*shares: tuple[str, float], reliable: bool = True) -> Claim:
    return Claim(shares, reliable)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_article_is_recognised(language: str) -> None:
    annotation = claim(("zsm", 0.9)) if language == "zsm" else None
    assert {identify(text, annotation).language for text in texts(language)} == {language}


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (None, "ind"),
        (claim(("tha", 0.9)), "ind"),
        (claim(("zsm", 0.9)), "zsm"),
        (claim(("eng", 0.6), ("zsm", 0.4)), "zsm"),
        (claim(("ind", 0.5), ("zsm", 0.4)), "ind"),
    ],
)
@pytest.mark.parametrize("language", ["ind", "zsm"])
def test_the_annotation_tells_malay_from_indonesian(annotation: Claim | None, expected: str, language: str) -> None:
    found = [identify(text, annotation) for text in texts(language)]
    assert {one.language for one in found} == {expected}
    assert min(one.score for one in found) > 0.8  # of the two together; Malay alone reaches 0.47


def test_the_text_overrules_the_annotation_elsewhere() -> None:
    assert identify(texts("vie")[0], claim(("tha", 1.0))).language == "vie"
    assert identify(texts("eng")[0], claim(("zsm", 1.0))).language == "eng"


def test_empty_text_has_no_certain_language() -> None:
    assert identify("").score < 0.5 and identify("\n \t").score < 0.5


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (None, ("und", "")),
        (claim(("fra", 0.9), reliable=False), ("und", "")),
        (claim(("fra", 0.9)), ("fra", "claimed_fra")),
        (claim(("eng", 0.7), ("tha", 0.3)), ("tha", "")),
        (claim(("eng", 0.9), ("tha", 0.1)), ("eng", "claimed_eng")),
    ],
)
def test_the_gate(annotation: Claim | None, expected: tuple[str, str]) -> None:
    assert claimed(annotation, ["tha", "vie"]) == expected
