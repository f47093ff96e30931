"""Two corpora side by side: what the second gained and lost against the first.

From the counts of shards and the ledgers, which takes the same time at any size; and document by document, exact, with the
reason for each that is not in the other. The latter is joined by id and out of core. A comparison by text digests was refused:
an id is the digest of where, when and what was crawled, so a document whose text another extractor gives stays the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from glob import escape

import duckdb

from .documents import Table, reading
from .questions import Question, columns
from .records import ArtifactRef
from .sides import literal
from .store import Store

DOCUMENT_TOKENS = "document_tokens.parquet"
"""In a count of tokens: a row a document."""

GROUPS = ("language", "source", "split", "crawl")
COUNTS = ("documents", "characters", "bytes")
NOT_LISTED = "not read, or gone before the listed stages"
"""The reason for a document that is neither kept nor in the list of removals, which leaves out the stages up to the sample."""


def counts(a: str, b: str, by: Sequence[str] = ("language",)) -> Question:
    """Documents, characters and bytes of two corpora, and their differences."""
    return _compared("corpus_counts", "ref", COUNTS, a, b, columns(",".join(by), GROUPS))


def tokens(a: str, b: str, by: Sequence[str] = ("language",)) -> Question:
    """Tokens of two corpora under each tokenizer that counted one of them."""
    return _compared("tokens", "corpus", ("tokens",), a, b, ("tokenizer", *columns(",".join(by), GROUPS)))


def removals(a: str, b: str) -> Question:
    """Documents that each step removed in two corpora, by reason."""
    return _compared("ledger", "ref", ("documents",), a, b, ("step", "stage", "reason"))


def _compared(view: str, key: str, sums: Sequence[str], a: str, b: str, by: Sequence[str]) -> Question:
    names = ", ".join(by)
    sides = [
        f"CAST(coalesce(sum(CASE WHEN {key} = ${number} THEN {name} END), 0) AS BIGINT) AS {name}_{side}"
        for name in sums
        for number, side in ((1, "a"), (2, "b"))
    ]
    changes = ", ".join(f"{name}_a, {name}_b, {name}_b - {name}_a AS {name}_change" for name in sums)
    done = ", ".join(
        f"(SELECT {part} FROM complete WHERE ref = ${number}) AS {part}_{side}"
        for number, side in ((1, "a"), (2, "b"))
        for part in ("slots_reported", "slots_planned")
    )
    sql = f"""SELECT {names}, {changes}, {done}
FROM (SELECT {names}, {", ".join(sides)} FROM {view} WHERE {key} IN ($1, $2) GROUP BY {names}) AS summed
ORDER BY {names}"""
    return Question(sql=sql, parameters=(a, b))


def shards(a: str, b: str) -> Question:
    """Shards that are the same file in both corpora, by digest, and those that one alone has."""
    sql = """SELECT CASE WHEN in_a > 0 AND in_b > 0 THEN 'both' WHEN in_a > 0 THEN 'only a' ELSE 'only b' END AS shards_of,
    count(*) AS shards, CAST(sum(documents) AS BIGINT) AS documents, CAST(sum(bytes) AS BIGINT) AS bytes
FROM (
    SELECT sha256, max(documents) AS documents, max(bytes) AS bytes, sum(CASE WHEN ref = $1 THEN 1 ELSE 0 END) AS in_a,
        sum(CASE WHEN ref = $2 THEN 1 ELSE 0 END) AS in_b
    FROM shards WHERE ref IN ($1, $2) GROUP BY sha256
) AS files
GROUP BY 1 ORDER BY 1"""
    return Question(sql=sql, parameters=(a, b))


NUMBERED = """SELECT id, source, language, split, shard, characters, bytes, file, "offset",
        row_number() OVER (PARTITION BY source, id ORDER BY file, "offset", shard) AS number
    FROM documents WHERE ref = $"""
"""The documents of a corpus. An id may occur twice in a source, where two files hold it: `number` tells them apart."""

BY_DOCUMENT = f"""WITH a AS (
    {NUMBERED}a
), b AS (
    {NUMBERED}b
), pairs AS MATERIALIZED (
    SELECT id, source, a.source AS source_a, b.source AS source_b, a.language AS language_a, b.language AS language_b,
        a.split AS split_a, b.split AS split_b, a.shard AS shard_a, b.shard AS shard_b, a.bytes AS bytes_a, b.bytes AS bytes_b,
        coalesce(a.file, b.file) AS file, coalesce(a."offset", b."offset") AS "offset",
        CASE WHEN a.shard IS NULL THEN 'gained' WHEN b.shard IS NULL THEN 'lost'
            WHEN a.language <> b.language OR a.split <> b.split THEN 'moved'
            WHEN a.characters <> b.characters OR a.bytes <> b.bytes THEN 'rewritten'
            WHEN a.shard <> b.shard THEN 'other shard' END AS change
    FROM a FULL JOIN b USING (source, id, number) WHERE change IS NOT NULL
), alone AS MATERIALIZED (
    SELECT *, row_number() OVER (PARTITION BY id, change ORDER BY source, file, "offset") AS number
    FROM pairs WHERE change IN ('gained', 'lost')
), gone AS (
    SELECT 'lost' AS change, source, file, "offset", min(stage || ': ' || reason) AS reason FROM removals
    WHERE ref = $b AND (source, file, "offset") IN (SELECT (source, file, "offset") FROM alone WHERE change = 'lost')
    GROUP BY ALL
    UNION ALL
    SELECT 'gained', source, file, "offset", min(stage || ': ' || reason) FROM removals
    WHERE ref = $a AND (source, file, "offset") IN (SELECT (source, file, "offset") FROM alone WHERE change = 'gained')
    GROUP BY ALL
), changes AS (
    SELECT 'moved' AS change, coalesce(y.language_b, '') AS language, 'source ' || x.source || ' -> ' || y.source AS reason, id,
        x.shard_a, y.shard_b, x.bytes_a, y.bytes_b
    FROM (SELECT * FROM alone WHERE change = 'lost') x JOIN (SELECT * FROM alone WHERE change = 'gained') y USING (id, number)
    UNION ALL
    SELECT change, coalesce(language_a, language_b), coalesce(reason, '{NOT_LISTED}'), id, shard_a, shard_b, bytes_a, bytes_b
    FROM alone LEFT JOIN gone USING (change, source, file, "offset")
    WHERE (id, number) NOT IN (SELECT (id, number) FROM alone GROUP BY id, number HAVING count(*) > 1)
    UNION ALL
    SELECT change, language_b,
        CASE WHEN change <> 'moved' THEN '' WHEN language_a <> language_b THEN 'language ' || language_a || ' -> ' || language_b
            ELSE 'split ' || split_a || ' -> ' || split_b END, id, shard_a, shard_b, bytes_a, bytes_b
    FROM pairs WHERE change NOT IN ('gained', 'lost')
)"""

SUMMED = """
SELECT change, language, reason, count(*) AS documents, coalesce(sum(bytes_a), 0)::BIGINT AS bytes_a,
    coalesce(sum(bytes_b), 0)::BIGINT AS bytes_b, {tokens}
FROM changes{joined} GROUP BY change, language, reason ORDER BY change, documents DESC, language, reason"""

TOKENS = """
LEFT JOIN (
    SELECT shard AS shard_{side}, id, avg(tokens) AS tokens_{side} FROM document_tokens WHERE corpus = ${side} GROUP BY ALL
) USING (shard_{side}, id)"""
"""Tokens of the documents of a side; of an id that is twice in a shard, the mean for each."""


def documents(store: Store, a: str, b: str, tokenizer: str = "") -> Table:
    """Every document that is not the same in two corpora, counted by what became of it, language and reason.

    `lost` and `gained` with the step and reason by which the other corpus removed it; `moved` to another language, split or
    source; `rewritten`: its text has another length; `other shard`: that and nothing else. What is `same` in both is not
    listed. Bytes and, where both corpora were counted with one tokenizer, tokens: on the side of a and on that of b.
    """
    with reading(store, ("documents", "removals")) as (connection, warnings):
        counted = _tokens_view(connection, store, a, b, tokenizer)
        sums = "coalesce(sum(tokens_{0}), 0)::BIGINT AS tokens_{0}" if counted else "NULL::BIGINT AS tokens_{0}"
        joined = "".join(TOKENS.format(side=side) for side in "ab") if counted else ""
        sql = BY_DOCUMENT + SUMMED.format(tokens=", ".join(sums.format(side) for side in "ab"), joined=joined)
        result = connection.execute(sql, {"a": a, "b": b})
        names = [column[0] for column in result.description or []]
        return Table(columns=names, rows=result.fetchall(), sql=sql, warnings=warnings)


def _tokens_view(connection: duckdb.DuckDBPyConnection, store: Store, a: str, b: str, tokenizer: str) -> bool:
    """Make the view `document_tokens` of the counts of two corpora with one tokenizer, that which is named or the first."""
    rows = connection.execute(
        """SELECT list(DISTINCT ref) FROM tokens WHERE corpus IN ($1, $2) AND ref <> corpus AND ($3 = '' OR tokenizer = $3)
        GROUP BY tokenizer HAVING count(DISTINCT corpus) = $4 ORDER BY tokenizer LIMIT 1""",
        [a, b, tokenizer, len({a, b})],
    ).fetchall()
    refs = sorted(rows[0][0]) if rows else []
    paths = [store.folder(ArtifactRef.parse(ref), {DOCUMENT_TOKENS}) / DOCUMENT_TOKENS for ref in refs]
    if not paths or not all(path.is_file() for path in paths):
        return False
    files = ", ".join(literal(escape(str(path))) for path in paths)
    read = f"read_parquet([{files}], hive_partitioning = false)"
    connection.execute(f"CREATE TEMP VIEW document_tokens AS SELECT corpus, shard, id, tokens FROM {read}")
    return True
