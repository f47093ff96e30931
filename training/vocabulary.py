"""Tokenizers: training a byte-level BPE, and encoding with seeded BPE-dropout.

Dropout is not the one of the tokenizers library: its random numbers cannot be seeded, and a skipped merge comes back there
when a stale queue entry is drawn. Ours is the rule of Provilkov et al. (https://arxiv.org/abs/1910.13267, algorithm 1): at
every step each possible merge is left out with probability p, and the best of the rest is made. Drawn lazily in the order of
the ranks this takes one number per merge tried, and as skips are rare only the gaps between them are drawn; a word that lies
between two skips is looked up in a cache.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ..catalog.errors import CorruptInput, RecipeError
from ..catalog.records import Corpus, Shard, TokenizerBody
from ..catalog.store import Job, Made, verify_files
from .recipe import TokenizerRecipe

BEGIN, END, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"
TURN, TURN_END = "<|im_start|>", "<|im_end|>"
SPECIAL = (BEGIN, END, PAD, TURN, TURN_END)
"""Special tokens; their ids are their places here."""

WORDS = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""Words; no merge crosses their ends. Marks count as letters: Thai, Lao, Khmer, Burmese and Tamil vowels are marks."""

MIN_FREQUENCY = 2
CACHE = 1 << 19
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def train_tokenizer(job: Job[TokenizerRecipe]) -> Made:
    """Train a byte-level BPE tokenizer on the training split of the recipe's corpora and save it for transformers.

    The same documents give the same bytes, whatever the number of threads. Raises RecipeError when the corpora do not hold
    enough text for the vocabulary.
    """
    tokenizer = trained_bpe(_texts(job), job.recipe.vocabulary)
    entries = tokenizer.get_vocab_size()
    if entries != job.recipe.vocabulary:
        raise RecipeError(str(job.recipe.ref), "vocabulary", f"the corpora give only {entries} entries; ask for fewer")
    save_tokenizer(tokenizer, job.folder)
    return Made(body=TokenizerBody(algorithm="byte-level-bpe", vocabulary=entries))


def trained_bpe(texts: Iterator[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE with at most `vocabulary` entries, special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=MIN_FREQUENCY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files from which `AutoTokenizer.from_pretrained` loads it, with our chat template."""
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    template = files(__package__ or "").joinpath("chat_template.jinja").read_text("utf-8")
    fast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[TURN, TURN_END],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer's files, dropout off: a rate in tokenizer.json would make every later use of it random."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            (target / name).write_bytes((source / name).read_bytes())
    content = json.loads((source / "tokenizer.json").read_text("utf-8"))
    if content["model"].get("dropout"):
        content["model"]["dropout"] = None
        (target / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False, indent=2), "utf-8")


def _texts(job: Job[TokenizerRecipe]) -> Iterator[str]:
    for ref in job.recipe.corpora:
        artifact, folder = job.inputs[ref], job.folder_of(ref)
        if not isinstance(artifact.body, Corpus):
            raise RecipeError(str(job.recipe.ref), "corpora", f"{ref} is a {artifact.kind}, not a corpus")
        shards = [shard for shard in artifact.body.shards if shard.split == "train"]
        verify_files(folder, artifact, (shard.path for shard in shards))
        for shard in shards:
            yield from (text for _, text in shard_documents(folder, shard))


def shard_documents(folder: Path, shard: Shard) -> Iterator[tuple[str, str]]:
    """Id and text of a shard's documents, in the shard's order; raises CorruptInput when it cannot be read."""
    path = folder / shard.path
    try:
        table = pq.read_table(path, columns=["id", "text"])
    except (OSError, ValueError, KeyError) as error:
        raise CorruptInput(path, "", f"is not a Parquet shard with columns id and text: {error}") from error
    yield from zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)


class Encoder:
    """A byte-level BPE tokenizer's encoding, with seeded BPE-dropout.

    Text never becomes a special token here, also where it spells one. The result is a pure function of the text, the rate
    and the key: neither order nor threads matter.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        self._tokenizer = Tokenizer.from_file(str(path))
        content = json.loads(path.read_text("utf-8"))
        model = content["model"]
        if model["type"] != "BPE" or model.get("byte_fallback") or content.get("normalizer") or model.get("ignore_merges"):
            raise CorruptInput(path, "model", "is not a byte-level BPE without normalizer, which seeded dropout needs")
        vocab: dict[str, int] = model["vocab"]
        self._alphabet = {symbol: vocab[symbol] for symbol in pre_tokenizers.ByteLevel.alphabet()}
        pairs = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
        self._merged = [vocab[left + right] for left, right in pairs]
        self._ranks = {vocab[left] << 32 | vocab[right]: rank for rank, (left, right) in enumerate(pairs)}
        self._words: dict[str, list[int]] = {}

    def encode(self, text: str, dropout: float = 0.0, key: tuple[int | str, ...] = ()) -> list[int]:
        """Token ids of a text; `dropout` (0 to below 1) is the probability with which a merge is skipped, `key` its seed."""
        draw = gaps(dropout, key)
        gap = draw()
        out: list[int] = []
        for word, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(text):
            whole = self._words.get(word)
            if whole is None:
                whole = self._whole(word)
            merges = len(word) - len(whole)
            if merges <= gap:
                out += whole
                gap -= merges
            else:
                ids, gap = self._merge([self._alphabet[symbol] for symbol in word], gap, draw)
                out += ids
        return out

    def _whole(self, word: str) -> list[int]:
        ids, _ = self._merge([self._alphabet[symbol] for symbol in word], math.inf, lambda: math.inf)
        if len(self._words) >= CACHE:
            self._words.clear()
        self._words[word] = ids
        return ids

    def _merge(self, symbols: list[int], gap: float, draw: Callable[[], float]) -> tuple[list[int], float]:
        """Merge a word's symbols; `gap` merges are made before one is skipped, then `draw` gives the next gap."""
        ranks, merged, end = self._ranks, self._merged, len(symbols)
        after, before = list(range(1, end + 1)), list(range(-1, end - 1))
        heap = [rank << 32 | i for i in range(end - 1) if (rank := ranks.get(symbols[i] << 32 | symbols[i + 1])) is not None]
        heapify(heap)
        skipped: list[int] = []
        while heap:
            best = heappop(heap)
            rank, i = best >> 32, best & 0xFFFFFFFF
            j = after[i]
            if symbols[i] < 0 or j >= end or ranks.get(symbols[i] << 32 | symbols[j]) != rank:
                continue  # one of the two was merged with another symbol since
            if gap <= 0:
                skipped.append(best)
                gap = draw()
                continue
            gap -= 1
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
        return [symbol for symbol in symbols if symbol >= 0], gap


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
