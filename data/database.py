"""DuckDB within bounds: so much memory, and disk below a folder for what exceeds it, until it is closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb


@contextmanager
def bounded(memory_limit: str, below: Path, threads: int = 1) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory whose tables and sorts move to a folder below `below` beyond the limit (`600MB`)."""
    below.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=below) as folder:
        limits: dict[str, Any] = {"memory_limit": memory_limit, "temp_directory": folder, "threads": threads}
        with duckdb.connect(config=limits) as connection:
            connection.execute("SET enable_progress_bar = false")  # else it draws one, terminal or not
            yield connection
