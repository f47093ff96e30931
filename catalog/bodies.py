"""What is special to each kind of artifact: the bodies of the records, frozen values, JSON both ways, no I/O.

Large tables (ledger rows, loss curves, items) are Parquet files beside a record, not in its body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

STRICT = ConfigDict(extra="forbid", strict=True)

Verdict = Literal["pass", "fail", "hold", "error"]
"""A gate's answer. `hold`: not enough evidence either way; `error`: the scores cannot be compared."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One metric of one task on one model."""

    __pydantic_config__ = STRICT
    task: str
    """Task of the suite."""
    language: str
    """ISO 639-3."""
    metric: str
    """`acc`, `bits_per_byte`, ..."""
    value: float
    """The score, in the metric's own unit."""
    stderr: float
    """Standard error over clusters, 0 for a single cluster."""
    items: int
    """Scored items."""
    higher_is_better: bool
    """Direction of the metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """A suite run on a model; one row per item is in the table `items`."""

    __pydantic_config__ = STRICT
    model: str
    """Reference of the checkpoint."""
    suite: str
    """Name of the suite."""
    suite_fingerprint: str
    """Digest of its items, prompts and settings; scores are comparable only when it is equal."""
    harness: str
    """Evaluation harness and version."""
    scores: tuple[Score, ...]
    """One a task and metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One test of a gate: a candidate against one baseline at one node of the suite, or an absolute floor."""

    __pydantic_config__ = STRICT
    baseline: str
    """Reference of the baseline checkpoint, empty for an absolute floor."""
    level: str
    """`suite`, `language`, `task` or `floor`."""
    node: str
    """`acc`, `acc/tha`, ...: metric, and language or task."""
    metric: str
    """The metric compared."""
    candidate_value: float
    """The candidate's score."""
    baseline_value: float
    """The baseline's score; the floor for an absolute floor."""
    delta: float
    """Candidate less baseline, signed so that higher is better."""
    lower: float
    """One-sided lower confidence bound of `delta` at the policy's level."""
    upper: float
    """One-sided upper confidence bound of `delta`."""
    tolerance: float
    """A true drop up to this is no failure."""
    margin: float
    """A pass needs `lower > -margin`."""
    p_value: float
    """Of the test that the drop is at most `tolerance`, adjusted for multiplicity (Holm)."""
    items: int
    """Paired items."""
    clusters: int
    """Independent clusters of items."""
    verdict: Verdict
    """This node's answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """Whether a candidate may become a stage's model, with every rule's figures."""

    __pydantic_config__ = STRICT
    stage: str
    """The stage it is a candidate for."""
    model: str
    """Reference of the candidate checkpoint."""
    scorecard: str
    """Reference of its scorecard."""
    baselines: tuple[str, ...]
    """References of the checkpoints it was compared with."""
    policy: str
    """Name of the policy."""
    policy_fingerprint: str
    """Digest of the policy's rules."""
    verdict: Verdict
    """The answer."""
    reason: str
    """One sentence that names the deciding nodes."""
    on_refusal: Literal["stop", "keep-parent"]
    """What the policy says a chain does when the candidate is not promoted."""
    kept: str
    """Reference of the model that stands in for the stage after a refusal under `keep-parent`, else empty."""
    outcomes: tuple[Outcome, ...]
    """Every test made."""
    waivers: tuple[str, ...] = ()
    """Public keys whose signed waivers the policy accepts for this decision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """A stage's alias moved to a model. The latest promotion of a stage (by `sequence`) is where its alias points."""

    __pydantic_config__ = STRICT
    stage: str
    """The stage."""
    model: str
    """Reference of the checkpoint."""
    decision: str
    """Reference of the gate decision that carries it."""
    verdict: Verdict
    """Its verdict: `pass`, or another one with a waiver."""
    sequence: int
    """1 for the stage's first promotion, then counting up."""
    waiver_by: str = ""
    """Who signed the waiver, empty for a pass."""
    waiver_reason: str = ""
    """Why."""
    waiver_expires: str = ""
    """Last day on which the waiver could be used, empty for a pass."""
