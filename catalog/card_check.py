"""Whether a card still says what the catalog says: every cell, every total, the header and the licence.

Each query that stands in the card is asked again and its answer written the way the card writes it; the texts must be equal.
A query that is not ours may be anybody's, so it is answered by the confined child process. A check of the sums alone was
refused: a table can add up and be wrong.
"""

from __future__ import annotations

import re
from typing import Any

import duckdb
import yaml

from . import index
from .card_queries import answered
from .card_tables import Question, Table, has_html_table, prose, sums, tables, written
from .cards import card_header, card_questions
from .confined import ask
from .errors import CorruptInput, SeaLionError
from .fingerprint import difference, plain
from .inheritance import claim_problems, inherited, naming_problems
from .licences import notices
from .records import Artifact, Checkpoint
from .store import Store

COMPARED = (
    "language", "size_categories", "base_model", "base_model_relation", "datasets", "source_datasets", "model-index",
    "catalog_fingerprint",
)  # fmt: skip
"""Keys of the header that the catalog decides; the others are the author's."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, where PyYAML was built with it: a tenth of the time."""
MOST_BYTES = 16 << 20
SHOWN = 60
"""Characters of a cell in a message."""


def check_card(store: Store, text: str, ref: str = "") -> list[str]:
    """What a card says otherwise than the catalog, a line each; empty when all of it is so. `ref`: of what it should be.

    Raises CorruptInput for a text that is no card of ours, MissingArtifact for a card of something that is not in the catalog.
    """
    header, body = _parts(text)
    named = str(header.get("catalog_ref", ""))
    if ref and named != str(store.require(ref).ref):
        return [f"header catalog_ref: the card is of {named or 'nothing'}, not of {store.require(ref).ref}"]
    artifact = store.require(named)
    found = tables(body)
    with index.connect(store) as connection:
        questions = {question.heading: question for question in card_questions(connection, artifact)}
        problems = _header_problems(header, card_header(connection, artifact) | {"catalog_fingerprint": artifact.fingerprint})
        asked = {table.sql for table in found}
        for question in questions.values():
            if question.sql not in asked and answered(connection, question.sql)[1]:
                problems.append(f"table {question.heading!r}: is not in the card, or with another query than the catalog's")
        for table in found:
            problems += _table_problems(store, connection, table, {question.sql for question in questions.values()})
    if has_html_table(body):
        problems.append("a table in HTML stands in the card: no query stands for it")
    return problems + _licence_problems(store, artifact, header, body)


def _parts(text: str) -> tuple[dict[str, Any], str]:
    """Header and text of a card."""
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if match is None or len(text) > MOST_BYTES:
        raise CorruptInput("card", "", "has no YAML header between two lines '---'" if match is None else "is too large")
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(match[1], Loader=LOADER)):
            raise CorruptInput("card", "header", "has aliases, which no card needs")
        header = yaml.load(match[1], Loader=LOADER)
    except (yaml.YAMLError, RecursionError) as error:
        raise CorruptInput("card", "header", f"is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(header, dict) or not header.get("catalog_ref"):
        raise CorruptInput("card", "header", "has no catalog_ref: it was not written by 'sea-lion catalog card'")
    return header, text[match.end() :]


def _header_problems(header: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    said = {key: header.get(key) for key in COMPARED}
    known = {key: plain(expected.get(key)) for key in COMPARED}
    problems = []
    for line in difference(said, known):
        key, _, values = line.partition(": ")
        old, _, new = values.partition(" -> ")
        problems.append(f"header {key}: says {old}, the catalog says {new}")
    return problems


def _table_problems(store: Store, connection: duckdb.DuckDBPyConnection, table: Table, ours: set[str]) -> list[str]:
    if not table.sql:
        return [f"table {table.heading!r}: no query stands below it"]
    try:
        if table.sql in ours:
            columns, rows = answered(connection, table.sql)
        else:
            answer = ask(store.root / index.INDEX, store.root, table.sql)
            columns, rows = answer.columns, answer.rows()
    except SeaLionError as error:
        return [f"table {table.heading!r}: its query has no answer: {error}"]
    expected = tables(written(Question(heading=table.heading, sql=table.sql), columns, rows))[0]
    return _differences(table, expected) + sums(table)


def _differences(table: Table, expected: Table) -> list[str]:
    name = f"table {table.heading!r}"
    if table.columns != expected.columns:
        return [f"{name}: has the columns {', '.join(table.columns)}; the catalog's are {', '.join(expected.columns)}"]
    if len(table.rows) != len(expected.rows):
        pairs = enumerate(zip(table.rows, expected.rows, strict=False), 1)
        first = next((number for number, (row, right) in pairs if row != right), min(len(table.rows), len(expected.rows)) + 1)
        return [
            f"{name}: has {len(table.rows):,} rows, the catalog has {len(expected.rows):,}; row {first} is the first to differ"
        ]
    problems = []
    for number, (row, right) in enumerate(zip(table.rows, expected.rows, strict=True), 1):
        if len(row) != len(right):
            problems.append(f"{name}, row {number}: has {len(row)} cells, not {len(right)}")
            continue
        for column, shown, wanted in zip(table.columns, row, right, strict=True):
            if shown != wanted:
                problems.append(
                    f"{name}, row {number} ({_short(right[0])}), column {column!r}: says {_short(shown) or 'nothing'}, "
                    f"the catalog says {_short(wanted) or 'nothing'}"
                )
    return problems


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _licence_problems(store: Store, artifact: Artifact, header: dict[str, Any], body: str) -> list[str]:
    given = inherited(store, str(artifact.ref))
    said = header.get("license_name") if header.get("license") == "other" else header.get("license")
    claim = " AND ".join(str(part) for part in said) if isinstance(said, list) else str(said or "")
    problems = [f"header license: {claim or 'none'!r}: {line}" for line in claim_problems(claim, given)]
    words = re.findall(r"^## Licence\n\n(.+)$", body, re.MULTILINE)
    problems += [f"section Licence: says {_short(line)}" for line in words if claim_problems(line.replace("\\", ""), given)]
    if not words:
        problems.append("section Licence: is missing")
    if not isinstance(artifact.body, Checkpoint):
        return problems
    heading = re.search(r"^# (.+) \S+$", body, re.MULTILINE)
    name = naming_problems(artifact, given, heading[1] if heading else "")
    problems += [problem for problem in name if f"> {prose(problem)}" not in body]  # a card without a claim warns, and may
    missing = [notice for notice in notices(each.licence for each in given) if f"**{notice}**" not in body]
    return problems + [f"the notice {notice!r} is missing" for notice in missing]
