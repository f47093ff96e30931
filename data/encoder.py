"""Text to token ids by a BPE tokenizer, with seeded BPE-dropout: what training reads is made here.

Without dropout the tokenizers library encodes, in Rust. Its own dropout is refused: its random numbers cannot be seeded, and a
skipped merge comes back there when a stale queue entry is drawn. Ours is the rule of Provilkov et al.
(https://arxiv.org/abs/1910.13267, algorithm 1): at every step each possible merge of a word is left out with probability p, and
the best of the rest is made. Drawn lazily in the order of the ranks this takes one number per merge tried, and as skips are
rare only the gaps between them are drawn. What a word becomes is then a function of the gaps that fall into it: words with no
skip, one or two are looked up.

A skipped merge is tried again as soon as another one was made anywhere in the word, so the rule fades with the length of the
word. The paper's words are short; but a document is one word for Gemma, and Thai, Lao, Khmer, Burmese and Chinese have hundreds
of characters between two spaces for every tokenizer. So a text without words is cut at its spaces first, and a word of more
than `WHOLE` tokens at its tokens, each a word of its own. That is recorded as the rule `provilkov-words`.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

from ..catalog.errors import CorruptInput
from .tokens import load_tokenizer

SPACE = "\u2581"
"""Stands for a space in vocabularies made by sentencepiece."""
SPACED = re.compile(rf"{SPACE}*[^{SPACE}\s]+|{SPACE}+|\s+")
"""Words of a tokenizer that has none: with the spaces before them; runs of line ends and the like apart."""
WHOLE = 2
"""Tokens of a word, without dropout, that is not cut."""
RULE = "provilkov-words"
"""What is recorded of all this."""
CACHE = 1 << 17
"""Words that are remembered, and cut words."""
REMEMBERED_SKIPS = 2
"""Skips in a word up to which what it became is remembered."""
CONFIGS = ("tokenizer_config.json", "special_tokens_map.json")
END_OF = {"<|end_of_text|>": "<|begin_of_text|>", "<eos>": "<bos>", "</s>": "<s>", "<|endoftext|>": ""}
"""The token that ends a document, and the one that begins it, for a `tokenizer.json` alone, which does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The tokens around each document."""

    begin: int | None
    """None for a tokenizer that has none."""
    end: int


Piece = tuple[list[int], int, list[int], str | int]
"""A word, or a token of a long one: its ids with no merge skipped, the number of merges, what they begin with, and its name."""


class Encoder:
    """A BPE tokenizer's encoding, with seeded BPE-dropout; byte-level (GPT-2, Llama 3) or with a sign for spaces (Gemma).

    Text never becomes a special token here, also where it spells one. The result is a pure function of the text, the rate
    and the key: neither order nor threads matter.
    """

    def __init__(self, path: Path) -> None:
        """Load a `tokenizer.json`; raises CorruptInput for one that is not a BPE whose merges are known."""
        self._tokenizer = load_tokenizer(path)
        self._tokenizer.encode_special_tokens = True
        content = json.loads(path.read_text("utf-8"))
        model = content["model"]
        if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise CorruptInput(path, "model", f"is {model['type']}: only BPE without marks inside of words can be encoded")
        self.tokens = max(self._tokenizer.get_vocab().values()) + 1
        """Every id is below this."""
        # Llama 3 takes a word that is in its vocabulary as it is, without the merges that dropout needs.
        self._by_merges = load_tokenizer(path).model if model.get("ignore_merges") else self._tokenizer.model
        self._by_merges.ignore_merges = False
        self._has_words = '"ByteLevel"' in json.dumps(content.get("pre_tokenizer"))
        self._added = _added(path, content)
        self._added_pattern = re.compile("|".join(re.escape(text) for text in sorted(self._added, key=len, reverse=True)))
        self._merged, self._ranks = _merges(path, model)
        self._pairs = {self._merged[rank]: pair for pair, rank in self._ranks.items()}
        self._words: dict[str, Piece] = {}
        self._tokens: dict[int, Piece] = {}
        self._cuts: dict[tuple[str | int, ...], tuple[list[int], int]] = {}

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text without dropout, as the tokenizers library has them."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode(self, text: str, dropout: float = 0.0, key: tuple[int | str, ...] = ()) -> list[int]:
        """Token ids of a text; `dropout` (0 to below 1) is the probability with which a merge is skipped, `key` its seed."""
        if dropout == 0:
            return self.plain([text])[0]
        draw = gaps(dropout, key)
        gap = draw()
        out: list[int] = []
        for section, added in self._sections(text):
            for word in self._split(section):
                for piece in self._pieces(word):
                    ids, merges = piece[0], piece[1]
                    if merges > gap:
                        ids, merges, gap = self._cut(piece, gap, draw)
                    out += ids
                    gap -= merges
            if added is not None:
                out.append(added)
        return out

    def _sections(self, text: str) -> Iterator[tuple[str, int | None]]:
        """The text between added tokens that are not special ones (Gemma's runs of line ends), and the token after each."""
        start = 0
        if self._added:
            for match in self._added_pattern.finditer(text):
                yield text[start : match.start()], self._added[match[0]]
                start = match.end()
        yield text[start:], None

    def _split(self, text: str) -> Iterator[str]:
        """The words of a text, in the vocabulary's characters."""
        if not text:
            return
        if self._tokenizer.normalizer is not None:
            text = self._tokenizer.normalizer.normalize_str(text)
        split = self._tokenizer.pre_tokenizer
        words = [text] if split is None else (word for word, _ in split.pre_tokenize_str(text))
        for word in words:
            if self._has_words:
                yield word
            else:
                yield from SPACED.findall(word)

    def _pieces(self, word: str) -> Sequence[Piece]:
        """The word, or its tokens when it has more than `WHOLE`."""
        if (known := self._words.get(word)) is not None:
            return (known,)
        ids = [token.id for token in self._by_merges.tokenize(word)]
        if len(ids) > WHOLE:
            return [self._tokens.get(token) or self._token(token) for token in ids]
        symbols = [symbol for token in ids for symbol in (self._tokens.get(token) or self._token(token))[2]]
        if len(self._words) >= CACHE:
            self._words.clear()
        found = self._words[word] = ids, len(symbols) - len(ids), symbols, word
        return (found,)

    def _token(self, token: int) -> Piece:
        """One token: what its merges begin with are characters, or bytes that stand for one."""
        symbols, left = list[int](), [token]
        while left:
            pair = self._pairs.get(each := left.pop())
            if pair is None:
                symbols.append(each)
            else:
                left += (pair & 0xFFFFFFFF, pair >> 32)
        found = self._tokens[token] = [token], len(symbols) - 1, symbols, token
        return found

    def _cut(self, piece: Piece, gap: float, draw: Callable[[], float]) -> tuple[list[int], int, float]:
        """A piece with skipped merges: its ids, the merges made since the last skip, and the gap that they are part of."""
        ids, merges, symbols, name = piece
        drawn: tuple[int, ...] = ()
        while merges > gap:
            drawn = (*drawn, int(gap))
            gap = draw()
            key = (name, *drawn)
            found = self._cuts.get(key)
            if found is None:
                found = self._merge(symbols.copy(), drawn)
                if len(drawn) <= REMEMBERED_SKIPS:
                    if len(self._cuts) >= CACHE:
                        self._cuts.clear()
                    self._cuts[key] = found
            ids, merges = found
        return ids, merges, gap

    def _merge(self, symbols: list[int], drawn: Sequence[int]) -> tuple[list[int], int]:
        """Merge symbols, skipping one merge after each of the numbers of merges drawn; also the merges made after the last."""
        ranks, merged, end = self._ranks, self._merged, len(symbols)
        after, before = list(range(1, end + 1)), list(range(-1, end - 1))
        heap = [rank << 32 | i for i in range(end - 1) if (rank := ranks.get(symbols[i] << 32 | symbols[i + 1])) is not None]
        heapify(heap)
        skipped: list[int] = []
        gaps_left, made = list(reversed(drawn)), 0
        while heap:
            best = heappop(heap)
            rank, i = best >> 32, best & 0xFFFFFFFF
            j = after[i]
            if symbols[i] < 0 or j >= end or ranks.get(symbols[i] << 32 | symbols[j]) != rank:
                continue  # one of the two was merged with another symbol since
            if gaps_left and made == gaps_left[-1]:
                gaps_left.pop()
                made = 0
                skipped.append(best)
                continue
            made += 1
            symbols[i], symbols[j] = merged[rank], -1
            k = after[i] = after[j]
            if k < end:
                before[k] = i
                if (rank_after := ranks.get(symbols[i] << 32 | symbols[k])) is not None:
                    heappush(heap, rank_after << 32 | i)
            h = before[i]
            if h >= 0 and (rank_before := ranks.get(symbols[h] << 32 | symbols[i])) is not None:
                heappush(heap, rank_before << 32 | h)
            for candidate in skipped:  # left out of one step only
                heappush(heap, candidate)
            skipped.clear()
        return [symbol for symbol in symbols if symbol >= 0], made


def document_ends(path: Path, folder: Path | None = None) -> Ends:
    """The tokens around a document: what the configuration in `folder` says, or, without one, those with the usual names.

    Raises CorruptInput when nothing says which token ends a document.
    """
    content = json.loads(path.read_text("utf-8"))
    ids: dict[str, int] = content["model"]["vocab"] | {token["content"]: token["id"] for token in content["added_tokens"]}
    said: dict[str, Any] = {}
    for config in (folder / name for name in reversed(CONFIGS)) if folder else ():
        if config.is_file():
            said |= json.loads(config.read_text("utf-8"))
    begin, end = (_content(said.get(name)) for name in ("bos_token", "eos_token"))
    if not said:
        end = next((token for token in END_OF if token in ids), "")
        begin = END_OF.get(end, "")
    for token in (end, begin) if begin else (end,):
        if token not in ids:
            wanted = f"has no token {token}" if token else "does not say which token ends a document"
            raise CorruptInput(path, "", f"{wanted}; it is named eos_token in {CONFIGS[0]}, which a tokenizer artifact holds")
    return Ends(begin=ids[begin] if begin else None, end=ids[end])


def gaps(dropout: float, key: tuple[int | str, ...]) -> Callable[[], float]:
    """A source of the number of merges made between two skipped ones: geometric, infinite without dropout.

    Raises ValueError for a rate outside of 0 to below 1.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {dropout}")
    if dropout == 0:
        return lambda: math.inf
    uniform = random.Random(seed_of(*key)).random
    scale = 1 / math.log1p(-dropout)
    return lambda: int(math.log1p(-uniform()) * scale)


def seed_of(*key: Any) -> int:
    """A 64-bit seed from whole numbers and texts, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def _merges(path: Path, model: Mapping[str, Any]) -> tuple[list[int], dict[int, int]]:
    """What each merge gives, by rank, and the rank of each pair of ids."""
    vocab: dict[str, int] = model["vocab"]
    pairs = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    try:
        merged = [vocab[left + right] for left, right in pairs]
        return merged, {vocab[left] << 32 | vocab[right]: rank for rank, (left, right) in enumerate(pairs)}
    except (KeyError, ValueError) as error:
        raise CorruptInput(path, "model.merges", f"a merge is not in the vocabulary: {error}") from error


def _added(path: Path, content: Mapping[str, Any]) -> dict[str, int]:
    """Added tokens that text can become: all but the special ones."""
    found: dict[str, int] = {}
    for token in content.get("added_tokens", []):
        if token["special"]:
            continue
        is_late = token["normalized"] and content.get("normalizer")
        if is_late or token["lstrip"] or token["rstrip"] or token["single_word"]:
            problem = f"{token['content']!r} is matched by more than its text, which dropout does not know"
            raise CorruptInput(path, "added_tokens", problem)
        found[token["content"]] = token["id"]
    return found


def _content(token: Any) -> str:
    """A special token's text; configurations write it as such or as a table."""
    return str(token["content"] if isinstance(token, dict) else token or "")
