"""What is special to each kind of artifact: the bodies of the records, frozen values, JSON both ways, no I/O.

Large tables (ledger rows, loss curves, items) are Parquet files beside a record, not in its body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One Parquet file of documents of one language, source and split, sorted by document id."""

    __pydantic_config__ = STRICT
    path: str
    """Relative to the corpus' folder."""
    language: str
    """ISO 639-3, or `code` for source code."""
    source: str
    """`web`, `text` or `code`: the recipe's source."""
    split: str
    """`train` or `heldout`."""
    documents: int
    """Rows."""
    characters: int
    """Unicode code points of all texts."""
    bytes: int
    """UTF-8 bytes of all texts (not of the file)."""
    sha256: str
    """Digest of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The shards of one recipe; what was removed is in the table `flow`."""

    __pydantic_config__ = STRICT
    shards: tuple[Shard, ...]
    """Ordered by path."""
    documents_in: int
    """Records and files read."""
    documents_out: int
    """Documents in the shards; `documents_in` less every removal of the ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlPlan:
    """Which records of which WARC files are wanted (`plan.parquet` in the artifact's folder)."""

    __pydantic_config__ = STRICT
    records: int
    """Rows of the plan."""
    bytes: int
    """Compressed bytes of all records."""
    files: int
    """WARC files they lie in."""
    languages: dict[str, int]
    """Records per language, by the crawl's annotation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerBody:
    """A tokenizer one can load with transformers from the artifact's folder."""

    __pydantic_config__ = STRICT
    algorithm: str
    """`byte-level-bpe`."""
    vocabulary: int
    """Entries, special tokens included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Tokens of every document of some corpora under one tokenizer, BPE-dropout off (table `token_counts`)."""

    __pydantic_config__ = STRICT
    tokenizer: str
    """Reference of the tokenizer."""
    documents: int
    """Documents counted."""
    tokens: int
    """Tokens of all of them, without special tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFiles:
    """Corpora as tokens, ready to train on (table `token_files`, one row a shard and variant).

    Beside each `path` (datatrove's `.ds`: little-endian token ids, document after document) lie `path.index` (uint64: the end
    of each document, in tokens) and `path.documents` (Parquet: id, crawl, bytes and tokens_plain of each document, same order).
    """

    __pydantic_config__ = STRICT
    tokenizer: str
    """Reference of the tokenizer, or `file:` and its digest."""
    tokenizer_sha256: str
    """Digest of its `tokenizer.json`."""
    vocabulary: int
    """Entries of the tokenizer."""
    token_bytes: int
    """Bytes of a token id in the files: 2 or 4."""
    split: str
    """`train` or `heldout`."""
    dropout: float
    """BPE-dropout: the probability with which a merge is skipped."""
    rule: str
    """The rule of the dropout, empty without."""
    seed: int
    """Of dropout and of the order of the documents."""
    variants: dict[str, int]
    """Language to the times that its text was encoded, each time with other skipped merges, for as many epochs."""
    documents: int
    """Documents of the corpora, each counted once."""
    tokens: int
    """Tokens of all files, those around each document among them."""
    tokens_plain: int
    """What the first variants would hold without dropout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixturePart:
    """What a mixture takes from one language of one corpus."""

    __pydantic_config__ = STRICT
    part: str
    """The recipe's part: `sea`, `english`, `code`."""
    corpus: str
    """Reference of the corpus."""
    language: str
    """ISO 639-3, or `code`."""
    source: str
    """The corpus' source."""
    weight: float
    """Share of the whole budget, 0 to 1."""
    tokens_available: int
    """Tokens of the training split; of one epoch of the token files, where the mixture was planned with these."""
    tokens_planned: int
    """Tokens to train on: a whole number of sequences."""
    sequences: int
    """Packed sequences."""
    epochs: float
    """`tokens_planned / tokens_available`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Tokens to take from each source and language."""

    __pydantic_config__ = STRICT
    tokenizer: str
    """Reference of the tokenizer whose tokens are counted."""
    sequence_length: int
    """Tokens of a packed sequence."""
    sequences: int
    """Packed sequences in all."""
    tokens: int
    """`sequences * sequence_length`."""
    parts: tuple[MixturePart, ...]
    """One a part, corpus and language."""
    token_files: str = ""
    """Reference of the token files it was planned with; empty: with token counts, which one cannot train on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """A validated set of conversations or preference pairs (`conversations.parquet` in the artifact's folder)."""

    __pydantic_config__ = STRICT
    form: Literal["messages", "preference"]
    """`messages`: columns id, language, messages; `preference`: id, language, prompt, chosen, rejected."""
    rows: int
    """Conversations or pairs."""
    languages: dict[str, int]
    """Rows per language."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesis:
    """Conversations written by a model (`<language>-synthetic.jsonl` in the artifact's folder)."""

    __pydantic_config__ = STRICT
    generator: str
    """The model's public name."""
    attempts: int
    """Attempts in all languages."""
    languages: dict[str, int]
    """Conversations kept, per language."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorFile:
    """One file of a mirror."""

    __pydantic_config__ = STRICT
    path: str
    """Relative to the mirror's folder."""
    sha256: str
    """Of the file, as it was copied."""
    bytes: int
    rows: int
    """Items in it, 0 for a file of settings."""
    licence: str
    """As the benchmark states it (SPDX, or `LicenseRef-not-stated`); empty where it says nothing of single files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """A benchmark's files, checked and copied (`mirror.json` in the artifact's folder says the same)."""

    __pydantic_config__ = STRICT
    benchmark: str
    """`sea-helm` or `leaderboard`."""
    profile: str
    """What its numbers may be compared with: `sea_helm_2025`, `sea_helm_2026`, `leaderboard`."""
    revision: str
    """The benchmark's own: the commit of its release, empty where it has none."""
    files: tuple[MirrorFile, ...]
    """Ordered by path."""
    missing: tuple[str, ...] = ()
    """What the source had not: `path: reason`."""


QUESTIONS = "questions.jsonl"
"""File of an artifact of kind `questions`: `id` (`task/language/item`), `spoken.language` and `texts` of every item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """The texts of every item of a suite, for the index that corpora are decontaminated with (file `QUESTIONS`)."""

    __pydantic_config__ = STRICT
    suite: str
    """The suite."""
    items: int
    """Items, of all tasks and languages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlaps:
    """The items of evaluation suites that some corpora hold (table `item_overlaps`)."""

    __pydantic_config__ = STRICT
    corpora: tuple[str, ...]
    """The corpora that were looked through."""
    documents: int
    """Their documents."""
    items: int
    """Different items that were found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ngrams:
    """The n-gram index of evaluation suites."""

    __pydantic_config__ = STRICT
    texts: int
    """Texts in the index."""
    too_short: int
    """Texts left out: too short to prove anything, or nothing but template."""
    ngrams: int
    """Distinct n-grams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Weights one can load with transformers from the artifact's folder."""

    __pydantic_config__ = STRICT
    stage: str
    """`init`, `cpt`, `sft`, `simpo`, `outside`, `merge`, or an objective of one's own."""
    architecture: str
    """transformers' class name."""
    parameters: int
    """Number of distinct parameters (tied ones once)."""
    parents: tuple[str, ...] = ()
    """References of the checkpoints it was trained or merged from."""
    method: str = ""
    """Merge method, empty for a trained checkpoint."""
    step: int = 0
    """Optimizer steps of this stage."""
    tokens_seen: int = 0
    """Tokens of this stage that were in the loss."""
    loss: float | None = None
    """Mean training loss over the last tenth of the steps, nats a token (SimPO: a pair)."""
    adapter_of: str = ""
    """Reference of the checkpoint that a LoRA adapter changes; empty for a whole model, which is what transformers loads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureSearch:
    """What short runs over mixtures say about the best one (tables `trial_weights`, `trial_losses`, `suggested_weights`)."""

    __pydantic_config__ = STRICT
    trials: int
    """Runs that were made."""
    weights: dict[str, float]
    """Part to its suggested share."""
    bits_per_byte: float
    """Predicted for the suggestion: the mean over languages, as the recipe weighs them."""
    stderr: float
    """Standard error of the prediction."""
