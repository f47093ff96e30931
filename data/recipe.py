"""Recipes of the data area: a corpus, the tokens of corpora, a mixture of them, a set of conversations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..catalog.recipes import Files, Recipe, Reference
from ..catalog.records import STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One kind of input of a corpus."""

    __pydantic_config__ = STRICT

    name: str
    """`web`, `text`, `code`: the `source` of its documents."""
    form: Literal["warc", "jsonl", "files"]
    """`warc`: Common Crawl WARC files; `jsonl`: lines with `id` and `text`; `files`: one document a file."""
    files: Files
    """Glob patterns, relative to the recipe's file or `package:…`."""
    language: str = ""
    """The documents' language where it is known; empty: identify it (`warc` only)."""
    crawl: str = ""
    """Name of the crawl, `CC-MAIN-2024-18`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deduplication:
    """Exact (digest of the normalised text) and near (MinHash) de-duplication, within a language."""

    __pydantic_config__ = STRICT

    exact: bool = True
    near: bool = True
    ngram: int = 5
    """Words, or characters for languages written without spaces, a shingle."""
    buckets: int = 14
    """Bands of the MinHash."""
    hashes_per_bucket: int = 8
    """Rows of a band; similarity at which a pair is found half the time is about `(1/buckets)**(1/hashes_per_bucket)`."""

    def __post_init__(self) -> None:
        if min(self.ngram, self.buckets, self.hashes_per_bucket) < 1:
            raise ValueError("ngram, buckets and hashes_per_bucket must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusRecipe(Recipe):
    """A corpus: sources through the gates, filters and de-duplication to Parquet shards by language."""

    kind: Literal["corpus"]
    languages: tuple[str, ...]
    """Wanted languages, ISO 639-3."""
    source: tuple[Source, ...]
    """What goes in."""
    thresholds: Files = ("package:data/thresholds/web.toml",)
    """Per-language thresholds of the language gate and the quality rules."""
    metadata_gate: Literal["cld2", "off"] = "cld2"
    """Whether the crawl's own language annotation must name a wanted language before a page is parsed."""
    deduplication: Deduplication = field(default_factory=Deduplication)
    mask_personal_data: bool = True
    """Replace e-mail addresses, IP addresses and phone numbers."""
    heldout_documents: int = 0
    """Documents per language of source `web` kept out of training, chosen by the hash of their text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensRecipe(Recipe):
    """Tokens of every document of some corpora under one tokenizer, BPE-dropout off."""

    kind: Literal["tokens"]
    corpora: tuple[Reference, ...]
    tokenizer: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a mixture: a share of the budget, and where it comes from."""

    __pydantic_config__ = STRICT

    name: str
    """`sea`, `english`, `code`."""
    weight: float
    """Share of the token budget, 0 to 1; the parts' weights sum to 1."""
    languages: tuple[str, ...]
    """ISO 639-3 codes, or `code`."""
    sources: tuple[str, ...] = ()
    """Sources of the corpora to draw on; empty: all."""
    smoothing: float = 1.0
    """Exponent on the available tokens when the share is divided among languages: 1 proportional, 0 equal."""

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight must be above 0 and at most 1, not {self.weight}")
        if not 0 <= self.smoothing <= 1:
            raise ValueError(f"smoothing must be between 0 and 1, not {self.smoothing}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureRecipe(Recipe):
    """Tokens to take from each source and language; refuses a budget that the corpus cannot meet within the epoch cap."""

    kind: Literal["mixture"]
    tokens: Reference
    """The token counts to plan with."""
    token_budget: int
    """Tokens to train on, rounded down to whole sequences."""
    sequence_length: int
    """Tokens of a packed sequence."""
    part: tuple[Part, ...]
    max_epochs: float = 4.0
    """No document is planned more often than this."""

    def __post_init__(self) -> None:
        super(MixtureRecipe, self).__post_init__()
        if abs(sum(part.weight for part in self.part) - 1) > 1e-9:
            raise ValueError(f"the parts' weights sum to {sum(part.weight for part in self.part):g}, not 1")
        if self.sequence_length < 2 or self.token_budget < self.sequence_length:
            raise ValueError("token_budget must be at least one sequence, sequence_length at least 2")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationsRecipe(Recipe):
    """A validated set of conversations, or of preference pairs, from JSON Lines files."""

    kind: Literal["conversations"]
    form: Literal["messages", "preference"]
    files: Files
    """JSON Lines: `{"messages": […]}` or `{"prompt", "chosen", "rejected"}`, file name = language."""
