"""The questions that have a command of their own: each is one query over a documented view, parameters apart from text.

Only names from fixed lists are put into the SQL; everything that a person gives is a parameter. Every count comes with
`slots_reported` of `slots_planned`, so that a number from an unfinished corpus cannot be mistaken for a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from .errors import SeaLionError

TOKEN_GROUPS = ("language", "source", "crawl", "stage", "corpus", "tokenizer", "ref")
FUNNEL_GROUPS = ("corpus", "stage", "source", "language", "reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One query."""

    sql: str
    """Portable: it runs on DuckDB and on PostgreSQL."""
    parameters: tuple[Any, ...] = ()
    """`$1`, `$2`, …"""


def columns(text: str, known: Sequence[str], flag: str = "--by") -> tuple[str, ...]:
    """The columns that a flag names, separated by commas; raises SeaLionError for one that is not known, or for none."""
    wanted = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in wanted:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise SeaLionError(f"{flag} {text!r}: {name!r} is none of {', '.join(known)}; did you mean {near!r}?")
    if not wanted:
        raise SeaLionError(f"{flag} {text!r}: name columns of {', '.join(known)}")
    return wanted


def _filters(given: Sequence[tuple[str, str | None]]) -> tuple[str, tuple[str, ...]]:
    """A WHERE clause over the columns that have a value, and its parameters."""
    chosen = [(column, value) for column, value in given if value]
    clause = " AND ".join(f"{column} = ${number}" for number, (column, _) in enumerate(chosen, 1))
    return (f"WHERE {clause}" if clause else ""), tuple(value for _, value in chosen if value)


def artifacts(*, kind: str | None = None) -> Question:
    """Every artifact, or those of one kind."""
    where, parameters = _filters([("kind", kind)])
    sql = f"""SELECT ref, kind, left(fingerprint, 12) AS fingerprint, bytes, created, licence, slots_reported, slots_planned
FROM artifacts JOIN complete USING (ref) {where} ORDER BY ref"""
    return Question(sql=sql, parameters=parameters)


def tokens(
    by: Sequence[str], *, tokenizer: str | None = None, corpus: str | None = None, language: str | None = None
) -> Question:
    """Tokens of the corpora, BPE-dropout off, and documents and bytes of corpora that are not counted yet (without tokens).

    With `stage` among the groups also what mixtures plan and what runs trained on; the stages are never added up. Nor are two
    corpora, which may be versions of one, or one corpus under two tokenizers: both stand in the answer unless they are given.
    """
    where, parameters = _filters([("tokenizer", tokenizer), ("corpus", corpus), ("language", language)])
    if "stage" in by:
        rows = "SELECT *, NULL AS bytes FROM tokens_by_stage"
    else:
        rows = """SELECT ref, corpus, tokenizer, language, source, crawl, documents, bytes, tokens FROM tokens
    UNION ALL
    SELECT ref, ref, '', language, source, crawl, documents, bytes, NULL FROM corpus_counts c
    WHERE NOT EXISTS (SELECT 1 FROM tokens t WHERE t.corpus = c.ref)"""
    size = "" if "stage" in by else "CAST(sum(bytes) AS BIGINT) AS bytes, "
    apart = [name for name, value in (("corpus", corpus), ("tokenizer", tokenizer)) if not value]
    names = ", ".join(dict.fromkeys([*apart, *by]))
    sql = f"""WITH counted AS (
    {rows}
), chosen AS (
    SELECT * FROM counted {where}
)
SELECT {names}, CAST(sum(documents) AS BIGINT) AS documents, {size}CAST(sum(tokens) AS BIGINT) AS tokens,
    slots_reported, slots_planned
FROM chosen LEFT JOIN (SELECT ref AS made, slots_reported, slots_planned FROM complete) c ON c.made = chosen.corpus
GROUP BY {names}, slots_reported, slots_planned ORDER BY {names}"""
    return Question(sql=sql, parameters=parameters)


def funnel(by: Sequence[str], *, corpus: str | None = None, language: str | None = None) -> Question:
    """What each step of a corpus removed, as documents, bytes and the share of what had entered that step.

    `language` is the one at the step's entry: `und` before the gate.
    """
    where, parameters = _filters([("corpus", corpus), ("language", language)])
    step = ("corpus", "step", "stage")
    groups = ", ".join(dict.fromkeys([*step, *by]))
    places = list(dict.fromkeys([*step, *(name for name in by if name in ("source", "language"))]))
    same = " AND ".join(f"e.{name} = r.{name}" for name in places)
    sql = f"""WITH steps AS (
    SELECT ref AS corpus, step, stage, source, language, outcome, reason, documents, bytes FROM flow
    UNION ALL
    SELECT ref, step, step_name, source, language, outcome, reason, documents, bytes FROM slot_flow s
    WHERE NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.ref = s.ref)
), chosen AS (
    SELECT * FROM steps {where}
), entered AS (
    SELECT {", ".join(places)}, sum(documents) AS documents FROM chosen WHERE outcome = 'in' GROUP BY {", ".join(places)}
), removed AS (
    SELECT {groups}, sum(documents) AS documents, sum(bytes) AS bytes FROM chosen WHERE outcome = 'removed' GROUP BY {groups}
)
SELECT {", ".join(f"r.{name}" for name in groups.split(", "))}, CAST(r.documents AS BIGINT) AS documents_removed,
    CAST(r.bytes AS BIGINT) AS bytes_removed, CAST(e.documents AS BIGINT) AS documents_in,
    CAST(r.documents AS DOUBLE PRECISION) / nullif(e.documents, 0) AS share, c.slots_reported, c.slots_planned
FROM removed r JOIN entered e ON {same} LEFT JOIN complete c ON c.ref = r.corpus
ORDER BY r.corpus, r.step, documents_removed DESC, {", ".join(f"r.{name}" for name in by)}"""
    return Question(sql=sql, parameters=parameters)


def mixture(ref: str) -> Question:
    """Planned against consumed tokens per language and source of a mixture, or of the mixture that a run trained on."""
    sql = """SELECT mixture, run, part, corpus, language, source, weight, tokens_available, tokens_planned, tokens_consumed,
    epochs_planned, epochs_consumed, slots_reported, slots_planned
FROM mixture_consumed LEFT JOIN complete ON complete.ref = corpus
WHERE mixture = $1 OR run = $1 ORDER BY mixture, run, weight DESC, part, corpus, language, source"""
    return Question(sql=sql, parameters=(ref,))


def scores(
    *, model: str | None = None, suite: str | None = None, language: str | None = None, task: str | None = None
) -> Question:
    """The latest score of each model under each suite, task, language and metric, with its standard error."""
    where, parameters = _filters([("model", model), ("suite", suite), ("language", language), ("task", task)])
    sql = f"""SELECT model, suite, task, language, metric, value, stderr, items, higher_is_better, ref
FROM latest_scores {where} ORDER BY suite, task, metric, language, model"""
    return Question(sql=sql, parameters=parameters)


def decisions(*, stage: str | None = None, model: str | None = None, verdict: str | None = None) -> Question:
    """Every gate decision, in order of time: verdict, reason, what became of it, and who signed where it was waived."""
    where, parameters = _filters([("stage", stage), ("model", model), ("verdict", verdict)])
    sql = f"""SELECT created, stage, model, policy, verdict, reason, ref, promotion, waiver_by, waiver_reason, waiver_expires
FROM standings {where} ORDER BY created, ref"""
    return Question(sql=sql, parameters=parameters)
