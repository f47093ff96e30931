"""DuckDB within bounds (so much memory, and disk for what exceeds it), and what it gives in even tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa


@contextmanager
def bounded(memory_limit: str, below: Path, threads: int = 1) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory whose tables and sorts move to a folder below `below` beyond the limit (`600MB`)."""
    below.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=below) as folder:
        limits: dict[str, Any] = {"memory_limit": memory_limit, "temp_directory": folder, "threads": threads}
        with duckdb.connect(config=limits) as connection:
            connection.execute("SET enable_progress_bar = false")  # else it draws one, terminal or not
            yield connection


def parquet(paths: Sequence[Path], options: str = "") -> str:
    """Files as a table of DuckDB's, which else takes folders for columns and brackets for patterns, the catalog's own too."""
    listed = ", ".join("'" + escape(str(path)).replace("'", "''") + "'" for path in paths)
    return f"read_parquet([{listed}], hive_partitioning = false{options and f', {options}'})"


def evenly(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Tables of exactly so many rows, and one of what is left: a file's bytes must not depend on how its rows come."""
    held: list[pa.RecordBatch] = []
    missing = rows
    for batch in batches:
        while batch.num_rows:
            held.append(batch.slice(0, missing))
            batch = batch.slice(len(held[-1]))
            missing -= len(held[-1])
            if not missing:
                yield pa.Table.from_batches(held).combine_chunks()
                held, missing = [], rows
    if held:
        yield pa.Table.from_batches(held).combine_chunks()
