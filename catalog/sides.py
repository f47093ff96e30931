"""The tables that are as large as the data: documents, document_ids, removals, items and answers stay in Parquet files.

The index lists the files (`side_files`) and what reads it makes them tables. For our own queries they are views over
`read_parquet`, which reads in parallel and out of core. For SQL of others they are Arrow datasets: those still answer when
DuckDB itself may open no file. Copying the rows into the index was refused: it would grow with the documents.

A file that is missing, of another size, unreadable, of other types, behind a symbolic link or outside the catalog costs
itself: it is left out and named in a line. That the content is what was written is for `catalog fsck`, which reads all of it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import CorruptInput
from .paths import checked_path

if TYPE_CHECKING:
    from .store import Store

COLUMNS = {
    "documents": """ref VARCHAR, shard VARCHAR, row BIGINT, id VARCHAR, url VARCHAR, domain VARCHAR, crawl VARCHAR,
        date VARCHAR, language VARCHAR,
        language_score FLOAT, source VARCHAR, split VARCHAR, licence VARCHAR, characters BIGINT, bytes BIGINT,
        charset VARCHAR, cluster_size BIGINT, masked_emails INTEGER, masked_ips INTEGER, masked_phones INTEGER,
        masked_ids INTEGER, masked_cards INTEGER, file VARCHAR, offset BIGINT, length BIGINT, digest VARCHAR, claimed VARCHAR,
        claimed_share FLOAT, fasttext VARCHAR, fasttext_score FLOAT, cld2 VARCHAR, script VARCHAR, cluster VARCHAR,
        rules MAP(VARCHAR, FLOAT)""",
    "document_ids": """ref VARCHAR, id VARCHAR, domain VARCHAR, url VARCHAR, language VARCHAR, source VARCHAR, shard VARCHAR,
        row BIGINT""",
    "removals": """ref VARCHAR, stage VARCHAR, language VARCHAR, reason VARCHAR, source VARCHAR, url VARCHAR, domain VARCHAR,
        crawl VARCHAR, file VARCHAR, offset BIGINT, length BIGINT, digest VARCHAR, bytes BIGINT, detail VARCHAR""",
    "items": """ref VARCHAR, task VARCHAR, language VARCHAR, metric VARCHAR, item VARCHAR, cluster VARCHAR, value DOUBLE,
        doc_hash VARCHAR, prompt_hash VARCHAR, target_hash VARCHAR, filter VARCHAR, stratum VARCHAR, is_null BOOLEAN""",
    "answers": """ref VARCHAR, task VARCHAR, language VARCHAR, item VARCHAR, turn INTEGER, text VARCHAR,
        loglikelihoods DOUBLE[],
        extracted VARCHAR, target VARCHAR, truncated BOOLEAN, doc_hash VARCHAR, prompt_hash VARCHAR""",
}
"""Table to its columns, so that an empty catalog has them as well; a file may lack some and hold others."""
_ARROW = {
    "VARCHAR": pa.string(), "INTEGER": pa.int32(), "BIGINT": pa.int64(), "FLOAT": pa.float32(), "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(), "DOUBLE[]": pa.list_(pa.float64()),
    "MAP(VARCHAR, FLOAT)": pa.map_(pa.string(), pa.float32()),
}  # fmt: skip
_COLUMN = re.compile(r"(\w+) (MAP\(.*?\)|\w+(?:\[\])?)")
_PARTITION = re.compile(r"(?:^|/)(language|source)=([^/]*)")
_TABLE_NAME = re.compile(r'"table_name":"([^"]*)"')
FOOTERS_READ = 2_000
"""Up to so many files of a table each one's footer is read before it is used; of more, one for each artifact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideFile:
    """One Parquet file of a side table."""

    ref: str
    """The artifact that wrote it."""
    name: str
    """The table."""
    path: str
    """Relative to the catalog; as a record wrote it, so not to be trusted."""
    bytes: int
    """Size, as the record says."""

    def partition(self) -> dict[str, str]:
        """`language` and `source`, where the path says them: the file holds rows of no other."""
        return dict(_PARTITION.findall(self.path))


def schema(name: str) -> pa.Schema:
    """The declared columns of a side table."""
    return pa.schema([(column, _ARROW[kind]) for column, kind in _COLUMN.findall(COLUMNS[name])])


def named(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[str, ...]:
    """The side tables that a statement reads, by its syntax tree; those whose names occur in it where it has none.

    Counting queries then open no file of documents, although nearly all of them have a column of that name. No view of the
    index reads a side table, so nothing is bound. DuckDB's own `get_table_names` binds, and fails at parameters and at joins
    with USING.
    """
    ((tree,),) = connection.execute("SELECT json_serialize_sql($1)", [sql]).fetchall()
    if str(tree).startswith('{"error":true') or '"function_name":"query' in tree:  # no SELECT, or one by name
        return tuple(name for name in COLUMNS if name in sql.casefold())
    read = {name.casefold() for name in _TABLE_NAME.findall(str(tree))}
    return tuple(name for name in COLUMNS if name in read)


def listed(connection: duckdb.DuckDBPyConnection, names: Iterable[str] = tuple(COLUMNS), ref: str = "") -> list[SideFile]:
    """The files of the tables that the index lists, of one artifact or of all, in the order of their paths."""
    rows = connection.execute(
        """SELECT ref, name, path, bytes FROM side_files WHERE list_contains($1, name) AND ($2 = '' OR ref = $2)
        ORDER BY name, path""",
        [list(names), ref],
    ).fetchall()
    return [SideFile(ref=row[0], name=row[1], path=row[2], bytes=row[3]) for row in rows]


def paths(
    connection: duckdb.DuckDBPyConnection, root: Path, name: str, *, ref: str = "", language: str = "", source: str = ""
) -> list[str]:
    """The usable files of a table that may hold rows of an artifact, language and source, for `read_parquet($1)`.

    Glob characters of the catalog's own path are escaped. Files whose path says no language are always among them.
    """
    wanted = {"language": language, "source": source}
    files = [
        file
        for file in listed(connection, [name], ref)
        if all(not wanted[key] or wanted[key] == value for key, value in file.partition().items())
    ]
    return [f"{escape(str(root))}/{file.path}" for file, _ in _usable(root, files)[0]]


def attach(connection: duckdb.DuckDBPyConnection, root: Path, names: Iterable[str] = tuple(COLUMNS)) -> list[str]:
    """Make the side tables temporary views of a connection; returns a line for each file that is left out.

    Raises nothing for files: a table without any is empty.
    """
    names = tuple(names)
    files, problems = _usable(root, listed(connection, names))
    for name in names:
        by_ref: dict[str, tuple[pa.Schema, list[str]]] = {}
        for file, found in files:
            if file.name == name:
                by_ref.setdefault(file.ref, (found, []))[1].append(f"{escape(str(root))}/{file.path}")
        declared = dict(_COLUMN.findall(COLUMNS[name]))
        selects = ["SELECT " + ", ".join(f"CAST(NULL AS {kind}) AS {quoted(column)}" for column, kind in declared.items())]
        selects[0] += " WHERE FALSE"
        for ref, (found, places) in by_ref.items():
            selected = ", ".join(
                f"CAST({quoted(column)} AS {declared[column]}) AS {quoted(column)}" if column in declared else quoted(column)
                for column in found.names
                if column != "ref"
            )
            read = f"read_parquet([{', '.join(map(literal, places))}], hive_partitioning = false)"
            selects.append(f"SELECT {literal(ref)} AS ref, {selected} FROM {read}")
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(name)} AS " + " UNION ALL BY NAME ".join(selects))
    return problems


def datasets(root: Path, files: Sequence[SideFile], names: Iterable[str] = tuple(COLUMNS)) -> tuple[dict[str, Any], list[str]]:
    """Table to something that `DuckDBPyConnection.register` takes, and a line for each file that is left out.

    A dataset over the files of each table, its rows known by `ref` and, where the path says so, language and source: a query
    that asks for one of them opens the others' files not at all.
    """
    usable, problems = _usable(root, files)
    found: dict[str, Any] = {}
    for name in names:
        mine = [(file, columns) for file, columns in usable if file.name == name]
        found[name] = _dataset(root, name, mine) if mine else schema(name).empty_table()
    return found, problems


def fetch(store: Store, index: Path, sql: str = "", names: Iterable[str] = tuple(COLUMNS)) -> None:
    """Bring the side files that a statement reads, or those of some tables, from an object store; in a folder they are there.

    Raises what the store raises: Unfinished when it does not answer, CorruptInput for a file that is not what was written.
    """
    from .confined import tables_read
    from .places import Folder  # with fsspec, which the child that answers one statement does not need
    from .records import ArtifactRef

    if isinstance(store.place, Folder):
        return
    if sql:
        names = tables_read(index, sql)
    with duckdb.connect(str(index), read_only=True) as connection:
        files = listed(connection, names)
    wanted: dict[str, list[str]] = {}
    for file in files:
        wanted.setdefault(file.ref, []).append(file.path)
    for ref, places in wanted.items():
        parsed = ArtifactRef.parse(ref)
        store.folder(parsed, {place.removeprefix(f"{parsed.name}/{parsed.version}/") for place in places})


def _dataset(root: Path, name: str, files: list[tuple[SideFile, pa.Schema]]) -> Any:
    # 60 ms to import, for the child that answers one statement.
    import pyarrow.dataset as ds
    from pyarrow.fs import LocalFileSystem

    local, parquet = LocalFileSystem(), ds.ParquetFileFormat()
    columns = {column.name: column for column in schema(name)}
    expressions: dict[tuple[str, ...], ds.Expression] = {}
    fragments = []
    for file, found in files:
        for column in found:
            columns.setdefault(column.name, column.with_nullable(True))
        known = {"ref": file.ref} | file.partition()
        key = tuple(known.values())
        if key not in expressions:
            expression = ds.field("ref") == file.ref
            for column, value in file.partition().items():
                expression = expression & (ds.field(column) == value)
            expressions[key] = expression
        fragments.append(parquet.make_fragment(f"{root}/{file.path}", filesystem=local, partition_expression=expressions[key]))
    return ds.FileSystemDataset(fragments, pa.schema(list(columns.values())), parquet, local)


def _usable(root: Path, files: Sequence[SideFile]) -> tuple[list[tuple[SideFile, pa.Schema]], list[str]]:
    """The files that can be read, each with its columns, and a line for each other."""
    usable: list[tuple[SideFile, pa.Schema]] = []
    problems: list[str] = []
    folders: set[str] = set()
    known: dict[tuple[str, str], pa.Schema] = {}  # of an artifact's table
    agreed: dict[str, dict[str, pa.DataType]] = {
        name: {column.name: column.type for column in schema(name)} for name in COLUMNS
    }
    for file in files:
        found = known.get((file.ref, file.name)) if len(files) > FOOTERS_READ else None
        try:
            _check(root, file, folders)
            if found is None:
                found = pq.read_schema(f"{root}/{file.path}")
                _agree(file, found, agreed[file.name])
        except (CorruptInput, OSError, pa.ArrowException) as error:
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            problems.append(line if isinstance(error, CorruptInput) else f"{file.path}: {line}")
            continue
        known.setdefault((file.ref, file.name), found)
        usable.append((file, found))
    return usable, problems


def _check(root: Path, file: SideFile, folders: set[str]) -> None:
    """Raises CorruptInput for a file that is not the plain file below the root that its record wrote."""
    *above, _ = checked_path(file.path).split("/")
    for depth in range(1, len(above) + 1):
        folder = "/".join(above[:depth])
        if folder not in folders:
            if not stat.S_ISDIR(_status(root, folder, file).st_mode):
                raise CorruptInput(file.path, "", f"{folder} is no folder of the catalog's own")
            folders.add(folder)
    status = _status(root, file.path, file)
    if not stat.S_ISREG(status.st_mode):
        raise CorruptInput(file.path, "", "is not a file of the catalog's own")
    if status.st_size != file.bytes:
        raise CorruptInput(file.path, "", f"has {status.st_size:,} bytes, {file.ref} wrote {file.bytes:,}")


def _status(root: Path, path: str, file: SideFile) -> os.stat_result:
    try:
        return os.lstat(f"{root}/{path}")
    except FileNotFoundError:
        raise CorruptInput(file.path, "", f"is missing from {file.ref}") from None


def _agree(file: SideFile, found: pa.Schema, agreed: dict[str, pa.DataType]) -> None:
    """Raises CorruptInput for a column that cannot stand in one table with those of the same name; notes new ones."""
    if len(set(found.names)) < len(found.names):
        raise CorruptInput(file.path, "", "has two columns of one name")
    for column in found:
        wanted = agreed.get(column.name, column.type)
        if column.name != column.name.lower():
            raise CorruptInput(file.path, ascii(column.name), "is not in lower case, and SQL tells no cases apart")
        if column.type != wanted and _family(column.type) not in ("null", _family(wanted)):
            raise CorruptInput(file.path, column.name, f"is {column.type}, not {wanted}")
    for column in found:
        agreed.setdefault(column.name, column.type)


def _family(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _family(kind.value_type)
    if pa.types.is_list(kind):  # the names of their elements differ between writers
        return f"list of {_family(kind.value_type)}"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "whole number" if pa.types.is_integer(kind) else "number"
    return "null" if pa.types.is_null(kind) else str(kind)


def quoted(name: str) -> str:
    """A name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text as a literal of SQL, where it cannot be a parameter."""
    return "'" + value.replace("'", "''") + "'"
