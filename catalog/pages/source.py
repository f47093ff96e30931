"""Where the pages get their figures: the named questions of `questions`, asked of one catalog.

A page never writes SQL of its own: it asks by name, and the name is what its figures' links lead to. So no figure can differ
from the query that is shown for it. All questions of a source go to one published index, so that a chain that is running
meanwhile cannot make two figures disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import duckdb

from .. import index
from ..markup import Html, tag
from ..sides import attach
from ..store import Store
from .questions import QUESTIONS

Row = dict[str, Any]
OF_DOCUMENTS = "domains"
"""The one question that reads a table outside the index."""


@dataclass(slots=True, kw_only=True)
class Source:
    """A catalog that answers each question once."""

    store: Store
    connection: duckdb.DuckDBPyConnection
    answers: dict[str, list[Row]] = field(default_factory=dict)
    """Question to its rows, those asked so far."""
    damaged: tuple[str, ...] = ()
    """Files of documents that could not be read, each with the reason: what is in them is in no figure about documents."""
    refused: dict[str, str] = field(default_factory=dict)
    """Question to why it has no answer, which costs its figures only."""

    def ask(self, name: str) -> list[Row]:
        """The rows of a question by column; raises KeyError for one that is not in `QUESTIONS`."""
        if name not in self.answers:
            try:
                result = self.connection.execute(QUESTIONS[name].sql)
                columns = [str(column[0]) for column in result.description or []]
                self.answers[name] = [dict(zip(columns, values, strict=True)) for values in result.fetchall()]
            except duckdb.Error as error:
                self.refused[name] = str(error).splitlines()[0]
                self.answers[name] = []
        return self.answers[name]


@contextmanager
def opened(store: Store) -> Iterator[Source]:
    """A catalog's current index as a source, the document tables that its questions read among the tables."""
    file = index.current(store, QUESTIONS[OF_DOCUMENTS].sql)
    with duckdb.connect(str(file), read_only=True) as connection:
        connection.execute("SET enable_progress_bar = false; SET python_enable_replacements = false")
        yield Source(store=store, connection=connection, damaged=tuple(attach(connection, store.root, ["documents"])))


def asked(*names: str) -> Html:
    """Links to the questions behind a figure."""
    links = [tag("a", name, href=f"questions.html#{name}", title=QUESTIONS[name].title) for name in names]
    return tag("span", "query ", links[0], [(" ", link) for link in links[1:]], class_="asked")
