"""What documents are compared by: a digest of the text, and the MinHash of its shingles (doi.org/10.1109/SEQUEN.1997.666900).

The MinHash is datatrove's: the same permutations, bands and modulus, hence the same pairs from the same shingles. Its way to
the shingles is not used: it makes a Python string of each, picks Thai's words for Malay and none for Chinese, and removes
combining marks, which tell words apart in Thai, Khmer, Burmese, Tamil and Vietnamese. Here a text is an array throughout.
"""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from typing import Any

import numpy as np
import regex  # type: ignore[import-untyped]
from icu import Normalizer2, UNormalizationMode2  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import NDArray

UInts = NDArray[np.uint64]

CHARACTERS_A_WORD = {"cmn": 2, "mya": 4, "khm": 4, "lao": 4, "tha": 4}
"""Of languages written without spaces; by ICU's words 1.5, 3.9, 4.6, 3.7 and 3.5 in our sample. Shingles of five characters
would not do: two unrelated Burmese texts of 4,400 characters share 13% of theirs, so that among a million documents each has a
false duplicate, and one cluster would swallow the language. Of twenty characters they share 0.02%."""

_PRIME = (1 << 61) - 1
_LARGEST = (1 << 64) - 1
_SEED = 1
_BASE = 0x9E3779B97F4A7C15
_DIGIT = np.uint64(0x30)


def text_digest(text: str) -> bytes:
    """128 bits of the SHA-256 of a text without case, width, spaces and punctuation: equal for exact duplicates."""
    codes = _code_points(text)
    plain = codes[_values()[codes] != 0].tobytes().decode("utf-32-le", "surrogatepass")
    return hashlib.sha256((plain or text).encode("utf-8", "replace")).digest()[:16]


def shingles(text: str, language: str, ngram: int) -> UInts:
    """The distinct hashes, sorted, of `ngram` consecutive words.

    Without spaces, of as many characters as so many words have, and of these about as many as there are words: a choice by
    hash, the same in every text. Case, width, punctuation and the digits of numbers do not count. The hashes of two languages
    differ unless they are of one group. Takes 60 bytes of memory a character.
    """
    values = _values()[_code_points(text)]
    is_inner_digit = np.zeros(len(values), bool)
    is_inner_digit[1:] = (values[1:] == _DIGIT) & (values[:-1] == _DIGIT)
    values = values[~is_inner_digit]
    per_word = CHARACTERS_A_WORD.get(language, 1)
    if language in CHARACTERS_A_WORD:
        units = values[values != 0]
    else:
        borders = np.flatnonzero(np.diff(values != 0, prepend=False, append=False))
        units = _mixed(_run_hashes(values, borders[::2], borders[1::2]))
    length = ngram * per_word
    starts = np.arange(max(0, len(units) - length + 1))
    found = _mixed(_run_hashes(units, starts, starts + length) + _group(language))
    found = np.sort(found[found <= np.uint64(_LARGEST // per_word)])
    is_first = np.diff(found, prepend=~found[:1]) != 0
    return np.compress(is_first, found)  # four times as fast as numpy's unique


def language_group(language: str) -> str:
    """The languages whose documents are compared with each other: the same page is called Malay once and Indonesian once."""
    return "ind" if language == "zsm" else language


class MinHash:
    """datatrove's MinHash for 64-bit shingles, with its seed: permutations `(a * shingle + b) mod 2**64 mod (2**61 - 1)`."""

    def __init__(self, buckets: int, hashes_per_bucket: int) -> None:
        generator, count = np.random.RandomState(_SEED), buckets * hashes_per_bucket
        self.factor: UInts = generator.randint(1, _PRIME, dtype=np.uint64, size=count)
        self.offset: UInts = generator.randint(0, _PRIME, dtype=np.uint64, size=count)
        self.shape = buckets, hashes_per_bucket

    def minima(self, shingles: UInts) -> UInts:
        """The least value of each permutation over at least one shingle, `buckets * hashes_per_bucket` numbers.

        What decides are the low 61 bits, found by a shift in place of the slow division. Modulo 2**61 - 1 the three high bits
        add up to 7 to them, so that another shingle may be less only when two agree in 58 bits.
        """
        factor, offset = self.factor[:, None] << np.uint64(3), self.offset[:, None] << np.uint64(3)
        rows = np.arange(len(self.factor))
        least = np.full(len(rows), _LARGEST, np.uint64)
        chosen = np.full(len(rows), shingles[0], np.uint64)
        for start in range(0, len(shingles), 512):  # a block stays in the processor's cache
            block = shingles[start : start + 512]
            values = factor * block
            values += offset
            places = values.argmin(axis=1)
            found = values[rows, places]
            is_less = found < least
            least[is_less], chosen[is_less] = found[is_less], block[places[is_less]]
        return (self.factor * chosen + self.offset) % np.uint64(_PRIME)

    def bands(self, shingles: UInts) -> UInts:
        """One hash a band: two documents are near duplicates when one of them agrees."""
        rows = self.minima(shingles).reshape(self.shape)
        return _mixed((_mixed(rows) * _powers(1 << 16)[0][: rows.shape[1]]).sum(axis=1, dtype=np.uint64))


@lru_cache(maxsize=1)
def _code_points(text: str) -> NDArray[np.uint32]:
    """Digest and shingles of one text are asked for together: it is normalised once."""
    return np.frombuffer(_folding().normalize(text).encode("utf-32-le", "surrogatepass"), np.uint32)


@cache
def _folding() -> Any:
    """Unicode's NFKC_Casefold, which also drops what is not seen; ICU's is ten times as fast in Thai as Python's NFKC."""
    return Normalizer2.getInstance(None, "nfkc_cf", UNormalizationMode2.COMPOSE)


@cache
def _group(language: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(language_group(language).encode()).digest()[:8]))


def _run_hashes(values: UInts, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> UInts:
    """A polynomial of each run `values[start:end]`, modulo 2**64, from sums over the prefixes: any length costs the same."""
    powers, inverses = _powers(max(1 << 16, 1 << len(values).bit_length()))
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return (sums[ends] - sums[starts]) * inverses[starts]


@lru_cache(maxsize=2)
def _powers(count: int) -> tuple[UInts, UInts]:
    """The powers of an odd base and of its inverse, modulo 2**64."""
    first, second = (np.full(count, base, np.uint64) for base in (_BASE, pow(_BASE, -1, 1 << 64)))
    first[0] = second[0] = 1
    return np.cumprod(first), np.cumprod(second)


def _mixed(values: UInts) -> UInts:
    """A bijection that makes every bit depend on all (https://doi.org/10.1145/2714064.2660195, the finalizer)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@cache
def _values() -> UInts:
    """A hash for each code point; 0 for punctuation and spaces, `_DIGIT` for all digits."""
    everything = "".join(map(chr, range(0x110000)))
    values = _mixed(np.arange(0x110000, dtype=np.uint64))
    for pattern, value in ((r"[\p{P}\p{S}\p{Z}\p{C}]+", np.uint64(0)), (r"\p{Nd}+", _DIGIT)):
        for match in regex.finditer(pattern, everything):
            values[match.start() : match.end()] = value
    return values
