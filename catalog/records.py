"""The records that flow between the areas: frozen values, JSON both ways, no I/O.

An `Artifact` is anything on disk with a past. What is special to its kind is its `body`, one of the dataclasses of `bodies`;
`BODIES` says which kind has which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from .bodies import QUESTIONS as QUESTIONS
from .bodies import STRICT as STRICT
from .bodies import Checkpoint as Checkpoint
from .bodies import Conversations as Conversations
from .bodies import Corpus as Corpus
from .bodies import CrawlPlan as CrawlPlan
from .bodies import Mirror as Mirror
from .bodies import MirrorFile as MirrorFile
from .bodies import Mixture as Mixture
from .bodies import MixturePart as MixturePart
from .bodies import MixtureSearch as MixtureSearch
from .bodies import Ngrams as Ngrams
from .bodies import Overlaps as Overlaps
from .bodies import Questions as Questions
from .bodies import Shard as Shard
from .bodies import Synthesis as Synthesis
from .bodies import TokenCounts as TokenCounts
from .bodies import TokenFiles as TokenFiles
from .bodies import TokenizerBody as TokenizerBody
from .verdicts import Aggregate as Aggregate
from .verdicts import Contamination as Contamination
from .verdicts import Evidence as Evidence
from .verdicts import GateDecision as GateDecision
from .verdicts import Loan as Loan
from .verdicts import Outcome as Outcome
from .verdicts import Promotion as Promotion
from .verdicts import Score as Score
from .verdicts import Scorecard as Scorecard
from .verdicts import Verdict as Verdict

_REF = re.compile(r"^(?P<name>[a-z][a-z0-9-]*(?:/[a-z0-9][a-z0-9._-]*)+)@(?P<version>[A-Za-z0-9][A-Za-z0-9._-]*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRef:
    """Name and version of an artifact, written `corpus/tha-web@2026.11.1`."""

    name: str
    """Lower case, `kind/name`."""
    version: str
    """Calendar or plain version; `dev` may be rebuilt freely and is never promotable."""

    @classmethod
    def parse(cls, text: str) -> ArtifactRef:
        """Read `name@version`; raises ValueError for anything else."""
        match = _REF.match(text)
        if match is None:
            raise ValueError(f"{text!r} is not a reference of the form kind/name@version")
        return cls(name=match["name"], version=match["version"])

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One artifact that another was made from."""

    __pydantic_config__ = STRICT
    role: str
    """The recipe's field, e.g. `parents.0`."""
    ref: str
    """The artifact, `name@version`."""
    fingerprint: str
    """Its fingerprint at that time."""
    via: str = ""
    """How a stage's alias was resolved to it, empty when the recipe names it outright."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """One file of an artifact."""

    __pydantic_config__ = STRICT
    path: str
    """Relative to the artifact's folder."""
    bytes: int
    """Size."""
    sha256: str
    """Hex digest of the content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where, when and with what an artifact was made: evidence, not identity."""

    __pydantic_config__ = STRICT
    created: str
    """UTC, ISO 8601, when the making ended."""
    seconds: float
    """Wall time of the making, of the last attempt when it was resumed."""
    peak_memory_bytes: int
    """Peak resident memory of the process so far."""
    commit: str
    """Commit of the code, `unknown` outside a checkout; `+dirty` appended when the tree had changes."""
    python: str
    """Version of the interpreter."""
    packages: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that matter to the result."""


Body = (
    Corpus
    | CrawlPlan
    | TokenizerBody
    | TokenCounts
    | TokenFiles
    | MixtureSearch
    | Mixture
    | Conversations
    | Synthesis
    | Ngrams
    | Mirror
    | Questions
    | Overlaps
    | Checkpoint
    | Scorecard
    | GateDecision
    | Promotion
)

BODIES: dict[str, type[Any]] = {
    "corpus": Corpus,
    "plan": CrawlPlan,
    "tokenizer": TokenizerBody,
    "tokens": TokenCounts,
    "token-files": TokenFiles,
    "mixture": Mixture,
    "mixture-search": MixtureSearch,
    "conversations": Conversations,
    "synthesis": Synthesis,
    "ngrams": Ngrams,
    "mirror": Mirror,
    "questions": Questions,
    "overlap": Overlaps,
    "checkpoint": Checkpoint,
    "scorecard": Scorecard,
    "decision": GateDecision,
    "promotion": Promotion,
}
"""Kind of artifact to the type of its body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Anything on disk with a past; its JSON form, `artifact.json`, is the truth about it."""

    __pydantic_config__ = STRICT
    ref: ArtifactRef
    """Name and version."""
    kind: str
    """A key of `BODIES`."""
    fingerprint: str
    """sha256 over `identity`."""
    recipe: dict[str, Any]
    """The recipe as it was read, defaults filled in."""
    identity: dict[str, Any]
    """The recipe without name, version and description, references and files replaced by fingerprints."""
    inputs: tuple[Input, ...]
    """The artifacts it was made from."""
    licence: str
    """SPDX expression, or a licence's name: what its inputs' licences come to."""
    files: tuple[FileDigest, ...]
    """Every file of the folder except `artifact.json`, ordered by path."""
    tables: dict[str, str]
    """Table of the index to the Parquet file (relative path) that holds its rows."""
    body: Body
    """What is special to its kind."""
    provenance: Provenance
    """When, how long, with what."""
