"""The benchmark's questions, answered by SQLite from a database that is loaded from the catalog's files beforehand.

With an index on domain and address and one on the id: what a team that knows SQLite would do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing

import pyarrow.dataset as ds
import pyarrow.parquet as pq
from catalog_peers import (  # type: ignore[import-not-found]  # the folder of a script is on its path
    MIXTURE,
    NEW,
    OLD,
    PROMOTED,
    TOKENIZER,
    Files,
    Rows,
    told,
)  # fmt: skip

UP = """WITH RECURSIVE up(ref) AS (
    SELECT $promoted UNION SELECT i.input_ref FROM up JOIN inputs i ON i.ref = up.ref
)"""
SQL = {
    "tokens": """SELECT language, crawl, tokenizer, sum(documents), sum(tokens) FROM token_counts
    WHERE corpus = $new GROUP BY 1, 2, 3""",
    "funnel": """SELECT r.step, r.stage, r.language, r.reason, r.documents, e.documents FROM (
        SELECT step, stage, language, reason, sum(documents) AS documents FROM flow
        WHERE ref = $new AND outcome = 'removed' GROUP BY 1, 2, 3, 4
    ) r JOIN (SELECT step, language, sum(documents) AS documents FROM flow
        WHERE ref = $new AND outcome = 'in' GROUP BY 1, 2) e
    ON e.step = r.step AND e.language = r.language""",
    "mixture": "SELECT run, language, source, tokens_planned, tokens_read FROM mixture_parts WHERE ref = $mixture",
    "available": """SELECT corpus, language, source, sum(tokens) FROM token_counts
    WHERE split = 'train' AND corpus = $new AND tokenizer = $tokenizer GROUP BY 1, 2, 3""",
    "domain": "SELECT url, id, shard FROM documents WHERE domain = $domain ORDER BY url, id LIMIT 10",
    "find": "SELECT id, url, shard, file, bytes FROM documents WHERE id = $id",
    "domains": """SELECT language, domain, n FROM (
        SELECT *, row_number() OVER (PARTITION BY language ORDER BY n DESC, domain) AS place FROM (
            SELECT language, domain, count(*) AS n FROM documents GROUP BY 1, 2
        )
    ) WHERE place <= 10""",
    "lineage": f"""{UP} SELECT crawl, count(DISTINCT file), sum(documents) FROM origins
    WHERE ref IN (SELECT ref FROM up) GROUP BY 1""",
    "files": f"{UP} SELECT crawl, file, documents FROM origins WHERE ref IN (SELECT ref FROM up)",
}  # fmt: skip
OF_DOCUMENTS = ("domain", "find", "domains")


def diff(files: Files) -> Rows:
    """The four tables of the answer to `diff`."""
    with closing(sqlite3.connect(files.database)) as connection:
        return told(
            *(
                connection.execute(sql).fetchall()
                for sql in (
                    "SELECT ref, language, sum(documents), sum(bytes) FROM shards GROUP BY 1, 2",
                    """SELECT a, b, count(*), sum(documents) FROM (
                        SELECT min(ref) AS a, max(ref) AS b, max(documents) AS documents FROM shards GROUP BY sha256
                    ) GROUP BY 1, 2""",
                    "SELECT corpus, tokenizer, language, sum(tokens) FROM token_counts GROUP BY 1, 2, 3",
                    """SELECT ref, step, stage, reason, sum(documents) FROM flow WHERE outcome = 'removed'
                    GROUP BY 1, 2, 3, 4""",
                )
            )
        )


def answer(name: str) -> Callable[[Files], Rows]:
    """The function that asks SQLite."""

    def asked(files: Files) -> Rows:
        given = {"new": NEW, "old": OLD, "tokenizer": TOKENIZER, "mixture": MIXTURE, "promoted": PROMOTED}
        given |= {"domain": files.domain, "id": files.id}
        with closing(sqlite3.connect(files.database)) as connection:
            return connection.execute(
                SQL[name], {key: value for key, value in given.items() if f"${key}" in SQL[name]}
            ).fetchall()

    return asked


def load(files: Files, *, with_documents: bool) -> None:
    """Make the database."""
    files.database.unlink(missing_ok=True)
    sources: list[tuple[str, list[str], str]] = [("token_counts", [*files.counts, files.counts_before], "")]
    sources += [("flow", [path], ref) for ref, path in files.flows.items()]
    sources += [("origins", [str(files.corpus / "origins.parquet")], NEW)]
    sources += [(name, [files.peer(name)], "") for name in ("shards", "mixture_parts", "inputs")]
    sources += [("documents", files.documents, "")] if with_documents else []
    wanted = ["id", "domain", "url", "language", "shard", "file", "bytes"]
    with closing(sqlite3.connect(files.database)) as connection:
        connection.executescript("PRAGMA journal_mode = off; PRAGMA synchronous = off; PRAGMA cache_size = -200000")
        for name, paths, ref in sources:
            columns = wanted if name == "documents" else pq.read_schema(paths[0]).names
            every = [*columns, *(["ref"] if ref else [])]
            connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({', '.join(every)})")
            insert = f"INSERT INTO {name} VALUES ({', '.join('?' * len(every))})"
            for batch in ds.dataset(paths, format="parquet").to_batches(columns=columns, batch_size=50_000):
                values = [*batch.to_pydict().values(), *([[ref] * len(batch)] if ref else [])]
                connection.executemany(insert, zip(*values, strict=True))
        if with_documents:
            connection.execute("CREATE INDEX by_domain ON documents (domain, url, id)")
            connection.execute("CREATE INDEX by_id ON documents (id)")
        connection.commit()


ANSWERS: dict[str, Callable[[Files], Rows]] = {name: answer(name) for name in SQL} | {"diff": diff}
"""Question to the function that answers."""
