"""Finds documents that hold items of evaluation suites, by an index of the items' n-grams.

*Units.* A text is looked at twice: as words (13 in a row) and, where it holds a script written without spaces, as characters
without spaces (40 in a row). The script decides and not the language's label, so that an English item in a Thai page and a page
under a wrong label are found too. Case, width, punctuation and invisible characters do not count.

*Rule.* A document is contaminated when it holds `min_share` of the n-grams of one of an item's texts; of a text shorter than an
n-gram, all of its 8-word (24-character) sequences; texts shorter still prove nothing and are left out, as are n-grams that
stand in more than `max_texts` different texts: instructions and templates. The refused alternative, any one 13-gram in common
(GPT-3, https://arxiv.org/abs/2005.14165, appendix C), drops whatever cites a sentence of an encyclopedia.

The index is a folder of numpy arrays, memory-mapped, so that many processes share one copy. Hashes are polynomials modulo 2**64
over mixed code points, computed for all places of a text at once.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.languages import UNKNOWN, language_code
from ..catalog.records import QUESTIONS, Ngrams, Questions
from ..catalog.store import Job, Made, verify_files
from .recipe import NgramsRecipe

U64 = npt.NDArray[np.uint64]

WORDS, CHARACTERS = (13, 8), (40, 24)
"""Units of an n-gram, and of one of a text that is shorter."""
MIN_SHARE = 0.3
"""Share of a text's n-grams that contaminates a document: of a sentence of 21 words, 15 in a row."""
MAX_TEXTS = 10
"""An n-gram in more different texts than this is part of a template."""
BITS_PER_NGRAM = 16
"""Of the filter that is asked before the sorted hashes: one in 16 others passes it."""
SCHEMA = pa.schema([("suite", pa.string()), ("item", pa.string()), ("language", pa.string()), ("ngrams", pa.uint32()),
                    ("needed", pa.uint32())])  # fmt: skip
FILES = {"hashes": "hashes.npy", "offsets": "offsets.npy", "texts": "texts.npy", "filter": "filter.npy"}
TABLE = "texts.parquet"

_BASE = np.uint64(0x9E3779B97F4A7C15)
_LONGEST_WORD = 64
_SPACED, _UNSPACED = 2, 3
_UNSPACED_BLOCKS = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip
"""Thai and Lao, Myanmar, Khmer, kana, Han."""


class Item(NamedTuple):
    """One text of an evaluation item; an item may have several (question, passage)."""

    suite: str
    item: str
    text: str
    language: str = UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What a document shares with the text of an item that it holds most of."""

    suite: str
    """The evaluation suite."""
    item: str
    """The item."""
    language: str
    """Language of the item's text."""
    matched: int
    """n-grams of the text that are in the document."""
    ngrams: int
    """n-grams of the text."""

    @property
    def reason(self) -> str:
        """Why the document is dropped."""
        return f"contaminated_{self.suite}"

    @property
    def detail(self) -> str:
        """The item and how much of it."""
        return f"{self.item} {self.matched}/{self.ngrams}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed:
    """What an index came to."""

    texts: int
    """Texts that are in the index."""
    too_short: int
    """Texts left out as too short, or as nothing but template."""
    ngrams: int
    """Distinct n-grams."""


class NgramIndex:
    """The n-grams of evaluation suites."""

    def __init__(self, folder: Path) -> None:
        """Open an index that `build` wrote; raises CorruptInput when it is none."""
        self.folder = folder
        try:
            arrays = {name: np.load(folder / file, mmap_mode="r").view(np.ndarray) for name, file in FILES.items()}
            self.table = pq.read_table(folder / TABLE, schema=SCHEMA)
        except (OSError, ValueError) as error:
            raise CorruptInput(folder, "", f"is no n-gram index: {error}") from error
        self.hashes, self.offsets, self.texts = arrays["hashes"], arrays["offsets"], arrays["texts"]
        self.filter = arrays["filter"]
        self.needed = self.table["needed"].to_numpy()
        if len(self.offsets) != len(self.hashes) + 1 or self.offsets[-1] != len(self.texts):
            raise CorruptInput(folder, "", "is no n-gram index: its arrays do not fit together")

    def __reduce__(self) -> tuple[type[NgramIndex], tuple[Path]]:
        """Processes open the folder again instead of copying the arrays."""
        return NgramIndex, (self.folder,)

    @classmethod
    def build(cls, items: Iterable[Item], folder: Path, min_share: float = MIN_SHARE, max_texts: int = MAX_TEXTS) -> Indexed:
        """Write the index of these items into a folder; equal texts of one suite count once."""
        rows, grams, count = _distinct_texts(items)
        hashes = np.concatenate(grams) if grams else np.zeros(0, np.uint64)
        owners = np.repeat(np.arange(len(grams), dtype=np.uint32), [len(gram) for gram in grams])
        order = np.argsort(hashes, kind="stable")
        hashes, owners = hashes[order], owners[order]
        unique, uses = np.unique(hashes, return_counts=True)
        is_kept = np.repeat(uses <= max_texts, uses)
        unique, uses, owners = unique[uses <= max_texts], uses[uses <= max_texts], owners[is_kept]
        totals = np.bincount(owners, minlength=len(grams))
        for row, total in zip(rows, totals.tolist(), strict=True):
            row |= {"ngrams": total, "needed": max(1, total if row.pop("is_short") else int(np.ceil(total * min_share)))}
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            "hashes": unique,
            "offsets": np.concatenate([[0], np.cumsum(uses)]),
            "texts": owners,
            "filter": _filter(unique),
        }
        for name, array in arrays.items():
            np.save(folder / FILES[name], array)
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / TABLE, compression="zstd")
        indexed = int((totals > 0).sum())
        return Indexed(texts=indexed, too_short=count - indexed, ngrams=len(unique))

    def hits(self, text: str) -> Overlap | None:
        """The text of an item that the document holds the greatest share of, None when it holds too little of any."""
        return max(self.held(text), key=lambda overlap: overlap.matched / overlap.ngrams, default=None)

    def held(self, text: str) -> list[Overlap]:
        """Every text of an item that the document holds enough of."""
        found = [self._known(hashes) for hashes in ngrams(text, every_kind=True)]
        places = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
        if not len(places):
            return []
        owners = np.concatenate([self.texts[self.offsets[place] : self.offsets[place + 1]] for place in places])
        texts, matched = np.unique(owners, return_counts=True)
        is_held = matched >= self.needed[texts]
        return [self._overlap(int(text), int(count)) for text, count in zip(texts[is_held], matched[is_held], strict=True)]

    def _overlap(self, text: int, matched: int) -> Overlap:
        row = self.table.slice(text, 1).to_pylist()[0]
        return Overlap(suite=row["suite"], item=row["item"], language=row["language"], matched=matched, ngrams=row["ngrams"])

    def _known(self, hashes: U64) -> npt.NDArray[np.int64]:
        """Places of those hashes that are in the index."""
        bits = _bit(hashes, len(self.filter))
        likely = hashes[(self.filter[bits >> np.uint64(3)] >> (bits & np.uint64(7)).astype(np.uint8)) & 1 == 1]
        if not len(likely) or not len(self.hashes):
            return np.zeros(0, np.int64)
        places: npt.NDArray[np.int64] = np.minimum(np.searchsorted(self.hashes, likely), len(self.hashes) - 1)
        return np.asarray(places[self.hashes[places] == likely], np.int64)


def _distinct_texts(items: Iterable[Item]) -> tuple[list[dict[str, Any]], list[U64], int]:
    """A row and the hashes of each different text that is long enough; and how many different texts there were."""
    seen: set[tuple[str, bytes]] = set()
    rows: list[dict[str, Any]] = []
    grams: list[U64] = []
    for item in items:
        hashes, is_short = _own_ngrams(item.text)
        key = item.suite, hashes.tobytes() or item.text.encode("utf-8", "replace")
        if key in seen:
            continue
        seen.add(key)
        if len(hashes):
            rows.append(
                {"suite": item.suite, "item": item.item, "language": language_code(item.language), "is_short": is_short}
            )
            grams.append(np.unique(hashes))
    return rows, grams, len(seen)


def _own_ngrams(text: str) -> tuple[U64, bool]:
    """The n-grams that stand for an item's text, and whether they are those of a short one."""
    whole, *shorter = ngrams(text, every_kind=False)
    return (whole, False) if len(whole) else (shorter[0], True)


def ngrams(text: str, every_kind: bool) -> list[U64]:
    """Hashes of a text's n-grams at all places, long ones before short ones.

    `every_kind`: those of words, and of characters where the text has a script without spaces; else only those of the kind
    that most of its letters are.
    """
    codes = _normal(text)
    kinds = _classes()[codes]
    codes, kinds = codes[kinds > 0], kinds[kinds > 0]
    unspaced = int((kinds == _UNSPACED).sum())
    is_by_character = unspaced > 0 if every_kind else 2 * unspaced > int((kinds >= _SPACED).sum())
    mixed = _mixed(codes.astype(np.uint64))
    found = []
    if is_by_character:
        characters = mixed[kinds >= _SPACED]
        found += [_windows(characters, length) for length in CHARACTERS]
    if every_kind or not is_by_character:
        words = _words(mixed, kinds == _SPACED)
        found += [_windows(words, length) for length in WORDS]
    return found


def _normal(text: str) -> npt.NDArray[np.uint32]:
    """Code points after NFKC and lower-casing; half surrogates become question marks."""
    if not text.isascii() and not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", text)
    return np.frombuffer(text.lower().encode("utf-32-le", "replace"), dtype=np.uint32)


@cache
def _classes() -> npt.NDArray[np.uint8]:
    """For every code point: 0 invisible, 1 no letter, 2 a letter, mark or digit of a script with spaces, 3 without."""
    table = np.ones(0x110000, np.uint8)
    for code in range(0x40000):
        category = unicodedata.category(chr(code))
        table[code] = _SPACED if category[0] in "LMN" else 0 if category in ("Cf", "Cc") and code not in (9, 10, 13) else 1
    for first, last in _UNSPACED_BLOCKS:
        block = table[first : last + 1]
        block[block == _SPACED] = _UNSPACED
    return table


def _mixed(values: U64) -> U64:
    """splitmix64's finalizer, so that neighbouring code points have nothing in common."""
    values = values + _BASE
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _words(mixed: U64, is_letter: npt.NDArray[np.bool_]) -> U64:
    """One hash a run of letters."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_letter, [False]])))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return np.zeros(0, np.uint64)
    begins = np.zeros(len(mixed), np.int64)
    begins[starts] = starts
    place = np.minimum(np.arange(len(mixed)) - np.maximum.accumulate(begins), _LONGEST_WORD - 1)
    weighted = np.where(is_letter, mixed * _powers()[place], np.uint64(0))
    return _mixed(np.add.reduceat(weighted, starts) + (ends - starts).astype(np.uint64))


@cache
def _powers() -> U64:
    return np.cumprod(np.full(_LONGEST_WORD, _BASE, np.uint64), dtype=np.uint64)


def _windows(values: U64, length: int) -> U64:
    """Hashes of all runs of `length` values, by doubling: a run of 2k is two runs of k."""
    if len(values) < length:
        return np.zeros(0, np.uint64)
    hashes, size = values, 1
    for bit in bin(length)[3:]:
        hashes = hashes[:-size] * np.uint64(pow(int(_BASE), size, 1 << 64)) + hashes[size:]
        size *= 2
        if bit == "1":
            hashes = hashes[:-1] * _BASE + values[size:]
            size += 1
    return _mixed(hashes + np.uint64(length))


def _filter(hashes: U64) -> npt.NDArray[np.uint8]:
    """A bit for each hash, of at least `BITS_PER_NGRAM` times as many."""
    size = 1 << max(3, int(len(hashes) * BITS_PER_NGRAM - 1).bit_length() - 3)
    bits = _bit(hashes, size)
    table = np.zeros(size, np.uint8)
    np.bitwise_or.at(table, bits >> np.uint64(3), np.uint8(1) << (bits & np.uint64(7)).astype(np.uint8))
    return table


def _bit(hashes: U64, size: int) -> U64:
    """The bit of each hash in a filter of `size` bytes."""
    return hashes >> np.uint64(64 - (size.bit_length() + 2))


def items_of(path: Path, suite: str, fields: Sequence[str], item_id: str = "", language: str = UNKNOWN) -> Iterator[Item]:
    """The texts of a JSON Lines file of evaluation items.

    `fields` are key paths, `prompts.*.text`: `*` is every element of a list or every value of an object; so is `language` where
    it holds a dot, and `item_id`, without which an item is known by file and line. Raises CorruptInput for a line that is no
    object and for a field that no line has.
    """
    missing = set(fields)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise CorruptInput(path, f"line {number}", "is not JSON in UTF-8") from error
            if not isinstance(row, dict):
                raise CorruptInput(path, f"line {number}", "is no object")
            name = next((str(value) for value in _values(row, item_id.split("."))), "") if item_id else ""
            spoken = next(map(str, _values(row, language.split("."))), UNKNOWN) if "." in language else language
            for field in fields:
                for value in _values(row, field.split(".")):
                    if isinstance(value, str) and value.strip():
                        missing.discard(field)
                        yield Item(suite, f"{path.stem}/{name or number}", value, spoken)
    if missing:
        raise CorruptInput(path, "", f"no line has a text at {', '.join(sorted(missing))}")


def _values(value: Any, path: Sequence[str]) -> Iterator[Any]:
    """What a key path leads to."""
    if not path:
        yield value
    elif path[0] == "*":
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from _values(inner, path[1:])
    elif isinstance(value, dict) and path[0] in value:
        yield from _values(value[path[0]], path[1:])


def _item_files(job: Job[NgramsRecipe], number: int) -> list[Path]:
    suite = job.recipe.suite[number]
    if not suite.questions:
        return job.files[f"suite.{number}.files"]
    artifact, folder = job.inputs[suite.questions], job.folder_of(suite.questions)
    if not isinstance(artifact.body, Questions):
        raise RecipeError(str(job.recipe.ref), f"suite.{number}.questions", f"{artifact.ref} is a {artifact.kind}")
    verify_files(folder, artifact)
    return [folder / QUESTIONS]


def index_suites(job: Job[NgramsRecipe]) -> Made:
    """Index the recipe's suites."""
    recipe = job.recipe
    items = (
        item
        for number, suite in enumerate(recipe.suite)
        for path in _item_files(job, number)
        for item in items_of(path, suite.name, suite.fields, suite.id, suite.language)
    )
    made = NgramIndex.build(items, job.folder, recipe.min_share, recipe.max_texts)
    if not made.ngrams:
        raise CorruptInput(str(recipe.ref), "", "no text of the suites is long enough to be found again")
    return Made(body=Ngrams(texts=made.texts, too_short=made.too_short, ngrams=made.ngrams))
