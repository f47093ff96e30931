"""The bodies of what evaluation puts on record: scorecards, gate decisions and promotions.

Apart from `bodies` for its size only; the same rules hold: frozen values, JSON both ways, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .bodies import STRICT

Verdict = Literal["pass", "fail", "hold", "error"]
"""A gate's answer. `hold`: not enough evidence either way; `error`: the scores cannot be compared."""


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
    role: Literal["score", "raw", "diagnostic"] = "score"
    """`score`: what averages and gates use; `raw`: the same before normalisation; `diagnostic`: reported beside it."""
    source: str = ""
    """Who computes it: `sea-helm`, `lm-eval`, `leaderboard`; empty: this platform."""
    nulls: int = 0
    """Answers out of which nothing could be read (they count as wrong)."""
    truncated: int = 0
    """Answers that ended at the limit of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """An average over scores, with the set it is over: two averages over different sets must not be compared."""

    __pydantic_config__ = STRICT
    level: Literal["group", "competency", "language", "suite"]
    """How wide it is."""
    name: str
    """`nlu`, `ind`, `overall`, `BBH`."""
    language: str
    """ISO 639-3, empty for the suite."""
    value: float
    """The average, in the unit of the scores."""
    stderr: float
    """Standard error, 0 where none is known."""
    members: tuple[str, ...]
    """What was averaged."""
    missing: tuple[str, ...] = ()
    """What belongs to it and has no score: the average is incomplete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contamination:
    """How many of a task's items lie in the training corpora that were looked through, and its score with and without them."""

    __pydantic_config__ = STRICT
    task: str
    language: str
    """ISO 639-3."""
    metric: str
    """The metric of its items."""
    items: int
    """Items of the task."""
    found: int
    """Of them, those that a corpus holds."""
    value: float
    """Mean over all items (over strata where there are several), in the items' unit."""
    clean_value: float | None
    """The same without the items found; None when none is left."""


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
    profile: str = ""
    """What its numbers may be compared with: `sea_helm_2025`, `sea_helm_2026`, `leaderboard`, `smoke`."""
    aggregates: tuple[Aggregate, ...] = ()
    """Averages over scores, each with its members."""
    incomplete: tuple[str, ...] = ()
    """Tasks without a score, each with the reason."""
    warnings: tuple[str, ...] = ()
    """What a reader of the numbers should know."""
    settings: dict[str, str] = field(default_factory=dict)
    """How it was run: backend, dtype, device, batch size, processes, template, versions; a gate compares like with like."""
    limit: int = 0
    """Items asked of each task; 0: all. A scorecard with a limit is never gated."""
    corpora: tuple[str, ...] = ()
    """Corpora that were looked through for its items; empty: none, so nothing is known of contamination."""
    contamination: tuple[Contamination, ...] = ()
    """One a task, language and metric with items of their own text."""


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
class Loan:
    """A loss that a stage's policy allows now and a later stage must make good."""

    __pydantic_config__ = STRICT
    stage: str
    """The stage that took it."""
    node: str
    """Where, `acc/tha`."""
    metric: str
    """The metric that lost."""
    level: str
    """`suite`, `language` or `task`."""
    lender: str
    """Reference of the checkpoint whose score must be reached again."""
    scorecard: str
    """Reference of the lender's scorecard, empty where scores alone are known."""
    lost: float
    """The difference in the metric's unit: below 0, unless a loss was only not ruled out."""
    lent: float
    """How much the policy lends."""
    within: float
    """How close to the lender's score the repayment must come: its lower bound must be above minus this."""
    repay_by: str
    """The stage that must make it good."""


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
    policy_text: str = ""
    """The policy's canonical JSON, empty in decisions made before it was kept."""
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
    loans: tuple[Loan, ...] = ()
    """Losses allowed here, each with the stage that must make it good."""
    repaid: tuple[Loan, ...] = ()
    """Loans of earlier stages that were made good here."""
    notes: tuple[str, ...] = ()
    """What a reader should know beside the outcomes: flags, effective margins, a noise floor that nobody measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One artifact that a promotion rests on, as it was: what a third person compares with what is there now."""

    __pydantic_config__ = STRICT
    role: str
    """`model`, `decision`, `candidate`, `baseline` and `lender` (scorecards), `parent` (the checkpoint that a refusal would
    have kept), `debt` (an earlier decision with open loans) or `replaced` (a promotion that was rolled back)."""
    artifact: str
    """Its reference."""
    fingerprint: str
    """Of its identity."""
    record_sha256: str
    """Of its `artifact.json`: covers recipe, inputs, licence, the digests of all its files and the versions of packages."""
    licence: str
    """Its licence, with all that it inherits."""


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
    evidence: tuple[Evidence, ...] = ()
    """The model, the decision and every scorecard behind it; empty in promotions made before this was kept."""
    policy: str = ""
    """The policy's canonical JSON, as the decision applied it."""
    rolled_back: str = ""
    """The promotion that this one takes back, empty for one forward."""
    person: str = ""
    """Who took it back."""
    reason: str = ""
    """Why it was taken back."""
