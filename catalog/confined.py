"""SQL of others, answered in a child process that cannot harm: `catalog sql`, `--where`, the queries in a foreign card.

DuckDB's own switches are not enough: a read-only connection still reads and writes any file, and its limits do not bound a
scalar function (see the facts). So each statement gets a process of its own on the published index, without external access,
its settings locked, its memory, CPU and file sizes bounded by the kernel, and killed when its time is over. What comes back is
an Arrow stream: no pickle, so what a taken-over child could send is data and nothing else. A filter on SQL text was refused: in
DuckDB 2 an INSERT or a COPY can hide in a SELECT. The kind of the statement is looked at only for a clear message.
"""

from __future__ import annotations

import json
import os
import re
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import SeaLionError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MODULE = "sea_lion.catalog.confined"
THREADS = 2
AS_TEXT = {"BIT", "BIGNUM", "TIME WITH TIME ZONE", "INTERVAL", "UNION"}
"""DuckDB's types that neither Parquet nor other readers of Arrow know."""
OUT_OF_MEMORY = re.compile(r"OutOfMemory|ArrowMemoryError|bad_alloc|alloc of size \d+ failed|Failed to launch worker thread")
"""In the names and texts of errors, as DuckDB, Arrow and C++ say it to each other."""
SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "python_enable_replacements": False, "autoinstall_known_extensions": False, "autoload_known_extensions": False,
    "allow_community_extensions": False, "allow_unsigned_extensions": False, "temp_directory": "", "threads": THREADS,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one statement may use."""

    memory_bytes: int = 2 << 30
    """Of address space, beyond the 0.4 GiB that the libraries take; what is resident is less."""
    seconds: float = 30
    """Of wall time; twice as much CPU time, as two threads work."""
    rows: int = 1_000_000
    """Of the answer; what is beyond is cut off."""
    answer_bytes: int = 512 << 20
    """Of the answer; what is beyond is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a statement gave."""

    table: pa.Table
    """The rows, in Arrow."""
    truncated: bool
    """Whether there were more than the limits let through."""
    warnings: tuple[str, ...]
    """A line for each side file that was left out of the answer."""

    @property
    def columns(self) -> list[str]:
        """The columns' names, in order; two may be the same."""
        return list(self.table.column_names)

    def rows(self) -> list[tuple[Any, ...]]:
        """The rows as `index.query` gives them: dates as dates, maps as dicts, whole decimals (sums) as ints."""
        import duckdb

        if not self.table.num_rows:
            return []
        unique = self.table.rename_columns([f"c{i}" for i in range(self.table.num_columns)])
        with duckdb.connect(config={"threads": 1}) as connection:
            rows = connection.from_arrow(unique).fetchall()
        return [tuple(int(v) if isinstance(v, Decimal) and not v.as_tuple().exponent else v for v in row) for row in rows]


def ask(
    index: Path, root: Path, sql: str, parameters: Sequence[Any] | dict[str, Any] = (), limits: Limits | None = None
) -> Answer:
    """The answer to one statement over a published index and the side tables below the catalog's root.

    Parameters (`$1`, or `$name` from a dict) are text, numbers, booleans or None. Raises SeaLionError, in one line, for SQL
    that is wrong or not allowed, and for what took longer or needed more than the limits.
    """
    given = parameters if isinstance(parameters, dict) else list(parameters)
    return _asked(index, root, {"sql": sql, "parameters": given, "is_answered": True}, limits or Limits())


def tables_read(index: Path, sql: str) -> list[str]:
    """The side tables that a statement reads, by a child process too; raises SeaLionError as `ask` does."""
    answer = _asked(index, index.parent, {"sql": sql, "parameters": [], "is_answered": False}, Limits())
    return [str(name) for name in answer.table["name"].to_pylist()]


def _asked(index: Path, root: Path, request: dict[str, Any], limits: Limits) -> Answer:
    request |= {"index": str(index.resolve()), "root": str(root.resolve()), "limits": asdict(limits)}
    try:
        stated = json.dumps(request).encode()
    except TypeError as error:
        raise ValueError(f"parameters are text, numbers, booleans or None: {error}") from error
    # Ctrl-C while the child starts would leave it behind: it waits until somebody ends the child.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd="/", env=_environment(), start_new_session=True,
    )  # fmt: skip
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        sent, said = _received(child, stated, limits)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for stream in (child.stdout, child.stderr):
            assert stream is not None
            stream.close()
    return _answer(sent, said, child.returncode, limits)


def _environment() -> dict[str, str]:
    """Nothing of the caller's but what finds the code: no key, no token, no home folder."""
    kept = {
        name: os.environ[name] for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START") if name in os.environ
    }
    # Addresses are what is bounded, and allocators reserve them: Arrow's usual one a gibibyte, the system's 128 MiB a thread.
    few = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
    return kept | few | {"ARROW_IO_THREADS": str(THREADS), "OMP_NUM_THREADS": str(THREADS), "LC_ALL": "C.UTF-8"}


def _received(child: subprocess.Popen[bytes], stated: bytes, limits: Limits) -> tuple[bytes, bytes]:
    """What the child wrote on its two streams until both ended."""
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    with suppress(BrokenPipeError), child.stdin as stdin:
        stdin.write(stated)
    end = time.monotonic() + limits.seconds
    read: dict[IO[bytes], bytearray] = {child.stdout: bytearray(), child.stderr: bytearray()}
    most = {child.stdout: 2 * limits.answer_bytes + (1 << 20), child.stderr: 1 << 20}
    with selectors.DefaultSelector() as selector:
        for stream in read:
            selector.register(stream, selectors.EVENT_READ, stream)
        while selector.get_map():
            ready = selector.select(max(0.0, end - time.monotonic()))
            if time.monotonic() >= end:
                raise SeaLionError(_late(limits))
            for key, _ in ready:
                stream = key.data
                data = os.read(stream.fileno(), 1 << 20)
                read[stream] += data
                if len(read[stream]) > most[stream]:
                    raise SeaLionError("SQL: the answer is larger than the limit")
                if not data:
                    selector.unregister(stream)
    child.wait()
    return bytes(read[child.stdout]), bytes(read[child.stderr])


def _late(limits: Limits) -> str:
    return f"SQL: took longer than {limits.seconds:g} s"


def _answer(sent: bytes, said: bytes, code: int, limits: Limits) -> Answer:
    import pyarrow as pa

    try:
        end: dict[str, Any] = json.loads(b"{" + said.rpartition(b"\n{")[2])
    except ValueError:
        if -code in (signal.SIGXCPU, signal.SIGALRM):
            raise SeaLionError(_late(limits)) from None
        name = signal.Signals(-code).name if code < 0 else f"code {code}"
        memory = f"needed more than {_size(limits.memory_bytes)}"
        raise SeaLionError(f"SQL: the query's process died ({name}), most likely because it {memory}") from None
    if "error" in end:
        from .tables import visible

        raise SeaLionError(f"SQL: {visible(str(end['error']))}")
    with pa.ipc.open_stream(sent) as stream:
        table = stream.read_all()
    return Answer(table=table, truncated=bool(end["truncated"]), warnings=tuple(map(str, end["warnings"])))


def _size(count: int) -> str:
    return f"{count / (1 << 30):g} GiB" if count >= 1 << 30 else f"{count / (1 << 20):g} MiB"


def opened(index: Path) -> duckdb.DuckDBPyConnection:
    """A connection to a published index that opens no other file; the side tables come by `add_sides`."""
    import duckdb

    from .sides import literal

    # Attached to a database in memory, not opened: settings are those of all connections of a process to one opened file.
    connection = duckdb.connect(config=SETTINGS)
    connection.execute(f"ATTACH {literal(str(index))} AS catalog (READ_ONLY); USE catalog")
    connection.execute("SET enable_external_access = false; SET enable_progress_bar = false; SET TimeZone = 'UTC'")
    return connection


def add_sides(connection: duckdb.DuckDBPyConnection, root: Path, names: Sequence[str]) -> list[str]:
    """Make the side tables that are named, the others empty, and lock the settings; returns a line for each file left out."""
    from . import sides

    tables, problems = sides.datasets(root, sides.listed(connection, names) if names else [])
    for name, table in tables.items():
        connection.register(name, table)
    connection.execute("SET lock_configuration = true")
    return problems


def main() -> None:
    """The child: one request on standard input, an Arrow stream on standard output, one JSON line on standard error."""
    request = json.load(sys.stdin.buffer)
    sys.meta_path.insert(0, _WithoutPandas())
    limits = Limits(**request["limits"])
    _bound_time(limits)
    try:
        end = _run(request, limits)
    except _refusals() as error:
        end = {"error": _line(error, limits)}
    print("\n" + json.dumps(end), file=sys.stderr, flush=True)
    os._exit(1 if "error" in end else 0)  # threads that still work on an answer cut off are not waited for


def _run(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    import pyarrow as pa

    from .sides import named

    connection, warnings = opened(Path(request["index"])), []
    _bound_memory(connection, limits)
    names = named(connection, request["sql"])
    if request["is_answered"]:
        warnings = add_sides(connection, Path(request["root"]), names)
        reader = _portable(_question(connection, request["sql"], request["parameters"])).to_arrow_reader(2048)
    else:
        reader = pa.table({"name": pa.array(names, pa.string())}).to_reader()
    rows = size = 0
    truncated = False
    with pa.ipc.new_stream(sys.stdout.buffer, reader.schema) as stream:
        for batch in reader:
            size += batch.nbytes
            truncated = rows + len(batch) > limits.rows or size > limits.answer_bytes
            stream.write_batch(batch.slice(0, limits.rows - rows if size <= limits.answer_bytes else 0))
            rows += len(batch)
            if truncated:
                break
    sys.stdout.buffer.flush()
    return {"truncated": truncated, "warnings": warnings}


def _question(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Any) -> duckdb.DuckDBPyRelation:
    """The answer to come of one statement that asks; raises SeaLionError for any other."""
    import duckdb

    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise SeaLionError("exactly one statement is answered")
    kind = statements[0].type
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI):
        asking = "SELECT, FROM, DESCRIBE, SHOW, SUMMARIZE, PIVOT, EXPLAIN"
        raise SeaLionError(f"{kind.name} is not allowed: only questions are answered ({asking})")
    relation = connection.sql(sql, params=parameters or None)
    if relation is None:
        raise SeaLionError("this statement has no answer")
    return relation


def _portable(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The relation with the types of `AS_TEXT` as text."""
    from .sides import quoted

    odd = [str(kind).partition("(")[0] in AS_TEXT for kind in relation.types]
    if not any(odd):
        return relation
    columns = [f'"c{i}"' for i in range(len(odd))]
    named = ", ".join(
        (f"CAST({column} AS VARCHAR)" if is_odd else column) + f" AS {quoted(name)}"
        for column, is_odd, name in zip(columns, odd, relation.columns, strict=True)
    )
    cast = relation.query("q", f"SELECT {named} FROM q AS q({', '.join(columns)})")
    assert cast is not None
    return cast


def _bound_time(limits: Limits) -> None:
    """Before anything foreign is touched; the parent kills as well, unless it has died itself."""
    seconds = int(limits.seconds) + 1
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds * THREADS, seconds * THREADS + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # not a byte into any file, whatever DuckDB believes
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    # No RLIMIT_NPROC: it counts all processes of the user, so it would fail where the user has many, and root has no limit.


def _bound_memory(connection: duckdb.DuckDBPyConnection, limits: Limits) -> None:
    """After the libraries are loaded and the threads stand, so that what they reserve is not counted."""
    connection.execute("SELECT count(*) FROM range(100000)").fetchall()
    used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + limits.memory_bytes, used + limits.memory_bytes))


def _refusals() -> tuple[type[BaseException], ...]:
    import duckdb
    import pyarrow as pa

    return (SeaLionError, duckdb.Error, pa.ArrowException, MemoryError, OSError, ValueError)


def _line(error: BaseException, limits: Limits) -> str:
    text = str(error).partition("\n\nLINE ")[0]
    text = text.partition("Possible solutions")[0]
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(f"{type(error).__name__} {text}"):
        return f"needed more than {_size(limits.memory_bytes)}"
    return " ".join(text.split()) or type(error).__name__


class _WithoutPandas:
    """Keeps pyarrow from importing pandas, which nothing here needs: a third of a second for each statement."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


if __name__ == "__main__":
    main()
