"""What the queries of all cards share, in portable SQL: groups that close with a total, lineages, licences, completeness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb

from .card_tables import Question
from .errors import SeaLionError
from .languages import LANGUAGES
from .records import ArtifactRef


def answered(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = ()
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows; raises SeaLionError for what cannot be read."""
    try:
        result = connection.execute(sql, list(parameters))
        return [str(column[0]) for column in result.description or []], result.fetchall()
    except duckdb.Error as error:
        raise SeaLionError(f"SQL: {' '.join(str(error).split('LINE 1:')[0].split())}") from error


def hub_name(ref: ArtifactRef) -> str:
    """A name that the hub takes: without the kind and the version, as it refuses `@`, and more than one `/`."""
    return ref.name.partition("/")[2].replace("/", "-")


def short_codes(languages: Sequence[str]) -> list[str]:
    """The hub's language codes, two letters where there are such; what is no language (`code`) is left out."""
    return sorted({LANGUAGES[code].short for code in languages if code in LANGUAGES})


def grouped(source: str, where: str, groups: Sequence[str], sums: Sequence[str], *, more: str = "", order: str = "") -> str:
    """A query that sums columns by groups and closes with their total, in portable SQL; `order` goes before the groups' own."""
    first, *rest = groups
    named = [
        ", ".join([f"CASE WHEN grouping(t.{first}) = 1 THEN 'total' ELSE t.{first} END AS {first}", *(f"t.{c}" for c in rest)])
    ]
    named += [f"CAST(sum(t.{name}) AS BIGINT) AS {name}" for name in sums]
    named += [more] if more else []
    every = ", ".join(f"t.{name}" for name in groups)
    columns = ",\n    ".join(named)
    return (
        f"SELECT {columns}\nFROM {source} AS t WHERE {where}\n"
        f"GROUP BY GROUPING SETS (({every}), ()) HAVING count(*) > 0\n"
        f"ORDER BY grouping(t.{first}), {order}{every}"
    )


def percent(column: str, first: str) -> str:
    """A column that says which share of the total of another column each group has."""
    return (
        f"CAST(100 * sum(t.{column}) AS DOUBLE PRECISION)\n        / nullif(CAST(sum(sum(t.{column})) "
        f"OVER (PARTITION BY grouping(t.{first})) AS DOUBLE PRECISION), 0) AS {column}_percent"
    )


def lineage(ref: str) -> str:
    """The beginning of a query over an artifact and all it was made from."""
    return (
        f"WITH RECURSIVE lineage(ref) AS (\n    SELECT CAST('{ref}' AS VARCHAR)\n"
        "    UNION SELECT i.input_ref FROM lineage l JOIN inputs i ON i.ref = l.ref\n)"
    )


def provenance_questions(ref: str) -> list[Question]:
    """What every card says of licences and completeness."""
    return [
        Question(
            heading="Licences of what it was made from",
            sql=f"""{lineage(ref)}
SELECT DISTINCT o.licence, o.given_by, o.ref AS brought_in_by
FROM own_licences o JOIN lineage USING (ref) JOIN artifacts a USING (ref)
WHERE a.kind NOT IN ('ngrams', 'plan') ORDER BY o.licence, o.given_by, o.ref""",
        ),
        Question(
            heading="Completeness",
            about="What each stage of its making planned and reported. Every number of this card is from what was reported.",
            sql=f"""{lineage(ref)}
SELECT c.ref AS artifact, c.stage, CAST(c.planned AS BIGINT) AS planned, CAST(c.reported AS BIGINT) AS reported,
    CAST(c.missing AS BIGINT) AS missing, CAST(c.conflicts AS BIGINT) AS conflicts
FROM completeness c JOIN lineage USING (ref) ORDER BY c.ref, c.stage""",
        ),
    ]
