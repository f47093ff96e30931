"""De-duplication within a language: exact, by a digest of the normalised text, and near, by datatrove's MinHash.

Near duplicates are found on shingles of words, or of characters for languages written without spaces. datatrove's choice of a
word tokenizer is not used: for bare codes it picks Thai's for Malay and none for Chinese. Its removal of combining marks is off
as well: in Thai, Khmer, Burmese, Tamil and Vietnamese they tell words apart.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import regex  # type: ignore[import-untyped]
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import TextNormConfig
from datatrove.utils.word_tokenizers import WordTokenizer

from ..catalog.languages import LANGUAGES
from .recipe import Deduplication

_NOISE = regex.compile(r"[\p{P}\p{S}\p{Z}\p{C}]+")


def text_digest(text: str) -> str:
    """Hex digest of a text without case, width, spaces and punctuation: equal for exact duplicates."""
    plain = _NOISE.sub("", unicodedata.normalize("NFKC", text).casefold())
    return hashlib.sha256((plain or text).encode("utf-8", "replace")).hexdigest()


def minhash_config(settings: Deduplication) -> MinhashConfig:
    """datatrove's configuration for the recipe's settings and its fixed seed; SHA-1, as its xxhash fails with xxhash 4."""
    return MinhashConfig(
        n_grams=settings.ngram,
        num_buckets=settings.buckets,
        hashes_per_bucket=settings.hashes_per_bucket,
        norm_config=TextNormConfig(norm_unicode_diacritics=False),
        hash_config=HashConfig(precision=64, hash_fc="sha1"),
    )


class ShingleTokenizer(WordTokenizer):  # type: ignore[misc]  # datatrove is untyped
    """Words or characters of one language, marked with it: equal shingles of two languages stay different."""

    def __init__(self, language: str) -> None:
        super().__init__(language)
        known = LANGUAGES.get(language)
        self.is_spaced = known is None or known.is_spaced

    def word_tokenize(self, text: str) -> list[str]:
        """The units that shingles are made of."""
        units: Iterable[str] = text.split() if self.is_spaced else "".join(text.split())
        return [f"{self.language}:{unit}" for unit in units]

    def sent_tokenize(self, text: str) -> list[str]:
        """Lines; shingles do not need sentences."""
        return text.splitlines()

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """The whole text; shingles do not need sentences."""
        return [(0, len(text))]


class Signatures(MinhashDedupSignature):  # type: ignore[misc]  # datatrove is untyped
    """datatrove's first MinHash stage for one language a task."""

    def __init__(self, output_folder: str, config: MinhashConfig, languages: Sequence[str]) -> None:
        first: Any = ShingleTokenizer(languages[0])
        super().__init__(output_folder=output_folder, config=config, language=first)
        self.languages = list(languages)

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Any:
        """Write the signatures of the documents of `languages[rank]`."""
        self.word_tokenizer = ShingleTokenizer(self.languages[rank])
        return super().run(data, rank, world_size)
