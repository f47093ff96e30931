"""What a model saw of a language, after which filters, and who said it may ship: one question, answered in four tables.

A model has seen what its own training run and those of its parents, by training or merging, read. Runs count once, however many
ways lead to them. What a run read is in the table `consumed`; runs of before that table say it in `training_parts`, without the
crawl. The corpora that a tokenizer was trained on, or that only a scorecard used, were not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from . import index
from .errors import SeaLionError
from .languages import language_code
from .lineage import MODEL
from .store import Store

MODELS = """WITH RECURSIVE models(ref) AS (
        SELECT CAST($1 AS VARCHAR)
        UNION SELECT i.input_ref FROM models m JOIN inputs i ON i.ref = m.ref
        JOIN artifacts a ON a.ref = i.input_ref AND a.kind = 'checkpoint'
    )"""
CORPORA = f"""{MODELS}, corpora(ref) AS (
        SELECT DISTINCT corpus FROM consumed WHERE ref IN (SELECT ref FROM models) AND language = $2
        UNION SELECT p.corpus FROM mixture_parts p JOIN inputs i ON i.input_ref = p.ref AND i.role = 'mixture'
        WHERE i.ref IN (SELECT ref FROM models) AND p.language = $2
    )"""
QUESTIONS = {
    "Tokens read": f"""{MODELS}, parts AS (
        SELECT ref, source, crawl, tokens, documents FROM consumed WHERE language = $2
        UNION ALL SELECT ref, source, '', tokens, documents FROM training_parts
        WHERE language = $2 AND ref NOT IN (SELECT ref FROM consumed)
    )
    SELECT p.ref AS run, p.source, p.crawl, CAST(sum(p.documents) AS BIGINT) AS documents,
        CAST(sum(p.tokens) AS BIGINT) AS tokens
    FROM parts p WHERE p.ref IN (SELECT ref FROM models) GROUP BY p.ref, p.source, p.crawl ORDER BY p.ref, p.source, p.crawl""",
    "Conversations trained on": f"""{MODELS}
    SELECT i.ref AS run, i.input_ref AS conversations, CAST(a.body->'languages'->>$2 AS BIGINT) AS rows
    FROM inputs i JOIN artifacts a ON a.ref = i.input_ref AND a.kind = 'conversations'
    WHERE i.ref IN (SELECT ref FROM models) AND a.body->'languages'->>$2 IS NOT NULL ORDER BY run, conversations""",
    "Filters of its corpora": f"""{CORPORA}
    SELECT l.ref AS corpus, l.step, l.stage, l.language, l.reason, CAST(sum(l.documents) AS BIGINT) AS documents_removed
    FROM ledger l WHERE l.ref IN (SELECT ref FROM corpora) AND l.language IN ($2, 'und')
    GROUP BY l.ref, l.step, l.stage, l.language, l.reason ORDER BY l.ref, l.step, l.language, l.reason""",
    "Completeness of its corpora": f"""{CORPORA}
    SELECT c.ref AS corpus, c.slots_reported, c.slots_planned FROM complete c WHERE c.ref IN (SELECT ref FROM corpora)
    ORDER BY c.ref""",
    "Who said it may ship": """SELECT s.stage, s.policy, s.verdict, s.reason, s.ref AS decision, s.promotion, s.waiver_by,
        s.waiver_reason, a.created AS promoted
    FROM standings s LEFT JOIN artifacts a ON a.ref = s.promotion
    WHERE s.model = $1 ORDER BY s.created, s.ref""",
}
"""Heading to question; $1 is the model, $2 the language. Tokens are those of the run's own tokenizer, an epoch counted again.
Languages of removed documents are those at the stage's entry: `und` is before the gate, for all languages together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One table of the answer."""

    heading: str
    columns: list[str]
    rows: list[tuple[Any, ...]]
    sql: str
    """The query that gave it."""
    parameters: Sequence[str]
    """What its $1 and $2 stand for."""


def seen_by(store: Store, ref: str, language: str) -> list[Answer]:
    """What a model (`name@version` or `stage:NAME`) saw of a language; raises SeaLionError for what is no model."""
    artifact = store.require(ref)
    if artifact.kind != MODEL:
        raise SeaLionError(f"{artifact.ref} is a {artifact.kind}; ask about a checkpoint")
    with index.connect(store) as connection:
        return [
            _answer(connection, heading, sql, str(artifact.ref), language_code(language)) for heading, sql in QUESTIONS.items()
        ]


def _answer(connection: duckdb.DuckDBPyConnection, heading: str, sql: str, model: str, language: str) -> Answer:
    parameters = [model, language] if "$2" in sql else [model]
    result = connection.execute(sql, parameters)
    columns = [column[0] for column in result.description or []]
    return Answer(heading=heading, columns=columns, rows=result.fetchall(), sql=sql, parameters=parameters)
