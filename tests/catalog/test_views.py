"""Views over rows made by hand, where what they must say is plain."""

from __future__ import annotations

import duckdb

from sea_lion.catalog.index import DuckTarget


def test_what_a_mixture_takes_of_one_language_from_two_corpora_is_counted_once() -> None:
    connection = duckdb.connect()
    DuckTarget(connection).migrate()
    part = "INSERT INTO mixture_parts (ref, part, corpus, language, source, tokens_available, tokens_planned) VALUES"
    connection.execute(f"{part} ('m@1', 'sea', 'a@1', 'tha', 'web', 100, 60), ('m@1', 'sea', 'b@1', 'tha', 'web', 50, 40)")
    connection.execute(f"{part} ('m@1', 'sea', 'a@1', 'vie', 'web', 10, 20)")
    for run in ("new@1", "old@1"):
        connection.execute("INSERT INTO inputs (ref, role, input_ref) VALUES ($1, 'mixture', 'm@1')", [run])
        connection.execute(
            """INSERT INTO training_parts (ref, part, language, source, tokens)
            VALUES ($1, 'sea', 'tha', 'web', 60), ($1, 'sea', 'tha', 'web', 40), ($1, 'sea', 'vie', 'web', 20)""",
            [run],
        )
    connection.execute(
        """INSERT INTO consumed (ref, part, corpus, language, source, crawl, tokens) VALUES
        ('new@1', 'sea', 'a@1', 'tha', 'web', 'x', 30), ('new@1', 'sea', 'a@1', 'tha', 'web', 'y', 30),
        ('new@1', 'sea', 'b@1', 'tha', 'web', 'x', 40),
        ('new@1', 'sea', 'a@1', 'vie', 'web', 'x', 20)"""
    )
    sql = """SELECT language, corpus, tokens_consumed, epochs_consumed FROM mixture_consumed WHERE run = $1 ORDER BY ALL"""
    assert connection.execute(sql, ["new@1"]).fetchall() == [
        ("tha", "a@1", 60, 0.6), ("tha", "b@1", 40, 0.8), ("vie", "a@1", 20, 2.0)
    ]  # fmt: skip
    assert connection.execute(sql, ["old@1"]).fetchall() == [("vie", "a@1", 20, 2.0)]
