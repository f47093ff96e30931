"""The ground floor: records, recipes, identity, the store of artifacts and the DuckDB index over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


SIDE_TABLES = ("documents", "document_ids", "removals", "items")


def open_catalog(path: str | Path = "artifacts", side_tables: Sequence[str] = SIDE_TABLES) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection to a catalog, for notebooks: all its tables and views, read only, up to date when it is opened.

    SQL on it opens no file and changes no setting, but its memory and time are not bounded: SQL that is not yours belongs into
    `sea-lion catalog sql`. Of the tables with a row for each document or item, those not named are empty, which spares the way
    to an object store. Side files that cannot be read are left out with a warning. Raises SeaLionError for no catalog.
    """
    import warnings

    from . import index, sides
    from .confined import add_sides, opened
    from .errors import SeaLionError
    from .remote import store_at

    store = store_at(path)
    if not store.root.is_dir():
        raise SeaLionError(f"{path}: no catalog here")
    published = index.published(store)
    sides.fetch(store, published, names=side_tables)
    connection = opened(published)
    for problem in add_sides(connection, store.root, side_tables):
        warnings.warn(f"left out: {problem}", stacklevel=2)
    return connection
