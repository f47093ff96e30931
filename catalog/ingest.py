"""From the truth to rows: what the records, their side tables and the slots' manifests put into the tables of an index.

Only what changed is read. A record is known by its state (size, time of change, inode), so a clock that jumps makes nothing
look old. Whatever cannot be read, or is not what its digest says, is left out, named in `problems`, and looked at again when it
changes; nothing else waits for it.
"""

from __future__ import annotations

import dataclasses
import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import CorruptInput, SeaLionError
from .files import read_artifact
from .fingerprint import canonical_json, plain
from .inheritance import own_licences
from .paths import checked_path
from .places import Folder
from .records import Artifact, FileDigest
from .schema import EXTERNAL, by_ref, tables
from .store import LOOKED_UP, Store

log = logging.getLogger(__name__)

MOST_BYTES = 2 << 30
"""Decoded size of a side table that is taken into the index; a larger one is no table of this kind, whatever it says."""
ROWS = 16_384
"""Of a side table, decoded at a time."""
BATCH = 5_000
"""Records held in memory."""
PROBLEM = "problem:"
"""Begins the state of a record that could not be read, among the states of those that could."""

BODY_TABLES: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ("corpus", "shards"): ("shards", ()),
    ("mixture", "parts"): ("mixture_parts", ()),
    ("scorecard", "scores"): ("scores", ("model", "suite")),
    ("scorecard", "aggregates"): ("aggregates", ("model", "suite", "profile")),
    ("scorecard", "contamination"): ("contamination", ("model", "suite")),
    ("decision", "outcomes"): ("outcomes", ("stage", "model")),
    ("decision", "loans"): ("loans", ("model",)),
    ("promotion", "evidence"): ("evidence", ("stage",)),
}
"""(kind, field of the body that holds records) to (table, further fields of the body that each row repeats)."""
SUMS = {"token_counts": "token_sums", "shard_counts": "corpus_sums"}
"""Table with a row a shard to the one that adds them up for each artifact."""
ROW_TABLES = {
    "decision": ("decisions", ("stage", "model", "policy", "verdict", "reason", "on_refusal", "kept")),
    "promotion": (
        "promotions",
        (
            "stage",
            "model",
            "decision",
            "verdict",
            "sequence",
            "waiver_by",
            "waiver_reason",
            "waiver_expires",
            "rolled_back",
            "person",
            "reason",
        ),
    ),
}
"""Kind to (table, fields of the body): one row an artifact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that could not be read."""

    path: str
    """The file, relative to the catalog."""
    problem: str
    """Why, in one line."""
    state: str
    """Its state when it was looked at."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """Rows of some artifacts, and those among them whose earlier rows go."""

    refs: list[str] = field(default_factory=list)
    rows: dict[str, pa.Table] = field(default_factory=dict)
    """Table of the index to its new rows."""
    problems: list[Problem] = field(default_factory=list)


def changed(store: Store, known: Mapping[str, str]) -> tuple[list[str], list[tuple[str, Path, str]]]:
    """The refs that are gone, and ref, file and state of the records that are new or other than `known` (ref to state)."""
    found = {ref: (path, state) for ref, path, state in store.records()}
    gone = [ref for ref in known if ref not in found]
    return gone, [(ref, path, state) for ref, (path, state) in found.items() if known.get(ref) != state]


def batches(store: Store, records: list[tuple[str, Path, str]]) -> Iterator[Batch]:
    """The rows of the records given, some thousand artifacts at a time."""
    for start in range(0, len(records), BATCH):
        batch, rows = Batch(), dict[str, list[dict[str, Any]]]()
        arrow: dict[str, list[pa.Table]] = {}
        for ref, path, state in records[start : start + BATCH]:
            batch.refs.append(ref)
            place = path.relative_to(store.root).as_posix()
            try:
                mine, side = _artifact_rows(store, path, ref, state)
            except (SeaLionError, OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
                problem = _line(error).replace(f"{store.root}/", "")
                batch.problems.append(Problem(path=place, problem=problem, state=f"{ref} {state}"))
                continue
            for table, values in mine.items():
                rows.setdefault(table, []).extend(values)
            for table, parts in side.items():
                arrow.setdefault(table, []).extend(parts)
        for table, schema in tables().items():
            parts = [pa.Table.from_pylist(rows[table], schema=schema)] if rows.get(table) else []
            parts += arrow.get(table, [])
            if parts:
                batch.rows[table] = pa.concat_tables(parts)
        for table, sums in SUMS.items():
            if table in batch.rows:
                batch.rows[sums] = _summed(batch.rows[table], tables()[sums])
        yield batch


def _summed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows added up over what the schema leaves out; a crawl that is not said is the empty one."""
    keys = [column.name for column in schema if pa.types.is_string(column.type)]
    counts = [column.name for column in schema if column.name not in keys]
    crawl = rows["crawl"].fill_null("")
    rows = rows.set_column(rows.schema.get_field_index("crawl"), "crawl", crawl)
    summed = rows.group_by(keys, use_threads=False).aggregate([(name, "sum") for name in counts])
    return pa.table([summed[name] for name in keys] + [summed[f"{name}_sum"] for name in counts], schema=schema)


def _line(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return " ".join(text.splitlines()[0].split())


def _artifact_rows(
    store: Store, path: Path, ref: str, state: str
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[pa.Table]]]:
    artifact = read_artifact(path)
    if str(artifact.ref) != ref:
        raise CorruptInput(path, "", f"says it is {artifact.ref}, but lies in the folder of {ref}")
    rows = record_rows(artifact, state)
    rows["own_licences"] = [
        {"ref": ref, "licence": licence, "given_by": given_by}
        for licence, given_by in own_licences(artifact, _input_licences(store, artifact))
    ]
    side: dict[str, list[pa.Table]] = {}
    for table, pattern in artifact.tables.items():
        for file in _matching(artifact, pattern):
            if table in EXTERNAL:
                place = f"{artifact.ref.name}/{artifact.ref.version}/{file.path}"
                rows.setdefault("side_files", []).append(
                    {"ref": ref, "name": table, "path": place, "bytes": file.bytes, "sha256": file.sha256}
                )
            elif table in by_ref():
                side.setdefault(table, []).append(_side_table(store.folder(artifact.ref, (file.path,)), file, table, ref))
    return rows, side


def _input_licences(store: Store, artifact: Artifact) -> list[str] | None:
    """The licences that its inputs pass on, None when one of them cannot be asked."""
    try:
        inputs = [store.require(given.ref) for given in artifact.inputs]
    except SeaLionError:
        return None
    return [source.licence for source in inputs if source.kind not in LOOKED_UP]


def _matching(artifact: Artifact, pattern: str) -> list[FileDigest]:
    """The files of the record that a pattern of its tables names: part by part, so that `*` does not cross a folder."""
    wanted = checked_path(pattern.replace("*", "x")) and pattern.split("/")
    start = pattern.partition("*")[0]
    found = [
        file
        for file in artifact.files
        if file.path.startswith(start)
        and len(parts := checked_path(file.path).split("/")) == len(wanted)
        and all(fnmatchcase(part, glob) for part, glob in zip(parts, wanted, strict=True))
    ]
    if not found and "*" not in pattern:
        raise CorruptInput(str(artifact.ref), pattern, "is named as a table, but is no file of the record")
    return found


def _side_table(folder: Path, file: FileDigest, table: str, ref: str) -> pa.Table:
    """A side table as rows of the index: verified by its digest first, so that what is counted is what was written."""
    path = folder / file.path
    try:
        content = Folder(str(folder)).read(file.path)  # without following links
    except FileNotFoundError as error:
        raise CorruptInput(path, "", f"is missing from {ref}") from error
    if len(content) != file.bytes or sha256(content).hexdigest() != file.sha256:
        raise CorruptInput(path, "", f"is not what {ref} wrote (sha256 differs)")
    read = _decoded(pq.ParquetFile(io.BytesIO(content)), path)
    schema = tables()[table]
    columns = [
        pa.array([ref] * len(read), pa.string())
        if column.name == "ref"
        else read[column.name].cast(column.type)
        if column.name in read.column_names
        else pa.nulls(len(read), column.type)
        for column in schema
    ]
    return pa.table(columns, schema=schema)


def _decoded(parquet: pq.ParquetFile, path: Path) -> pa.Table:
    """All rows, read a little at a time: a small file can decode to more than fits in memory, and does not say so."""
    batches, size = [], 0
    for batch in parquet.iter_batches(ROWS):
        size += batch.nbytes
        if size > MOST_BYTES:
            raise CorruptInput(path, "", f"decodes to more than {MOST_BYTES:,} bytes; no table of the index is that large")
        batches.append(batch)
    return pa.Table.from_batches(batches, parquet.schema_arrow)


def record_rows(artifact: Artifact, state: str) -> dict[str, list[dict[str, Any]]]:
    """Table of the index to the rows that a record itself holds."""
    ref, made = str(artifact.ref), artifact.provenance
    lists = {name for kind, name in BODY_TABLES if kind == artifact.kind}  # in tables of their own: shards can be 100,000
    names = [column.name for column in dataclasses.fields(artifact.body) if column.name not in lists]
    body = {name: plain(getattr(artifact.body, name)) for name in names}
    rows: dict[str, list[dict[str, Any]]] = {
        "artifacts": [
            {
                "ref": ref, "name": artifact.ref.name, "version": artifact.ref.version, "kind": artifact.kind,
                "fingerprint": artifact.fingerprint, "licence": artifact.licence,
                "bytes": sum(file.bytes for file in artifact.files), "created": _time(made.created), "seconds": made.seconds,
                "peak_memory_bytes": made.peak_memory_bytes, "commit": made.commit,
                "description": artifact.recipe.get("description", ""), "recipe": canonical_json(artifact.recipe),
                "body": canonical_json(body), "record_state": state,
            }
        ],
        "inputs": [
            {"ref": ref, "role": given.role, "input_ref": given.ref, "input_fingerprint": given.fingerprint, "via": given.via}
            for given in artifact.inputs
        ],
    }  # fmt: skip
    for (kind, name), (table, repeated) in BODY_TABLES.items():
        if kind == artifact.kind:
            shared = {"ref": ref} | {other: body[other] for other in repeated}
            rows[table] = [
                shared | {column.name: _cell(getattr(row, column.name)) for column in dataclasses.fields(row)}
                for row in getattr(artifact.body, name)
            ]
    if artifact.kind in ROW_TABLES:
        table, fields = ROW_TABLES[artifact.kind]
        rows[table] = [{"ref": ref} | {name: body[name] for name in fields}]
    return rows


def _cell(value: Any) -> Any:
    """A field of a record as a column holds it: lists are JSON."""
    return canonical_json(value) if isinstance(value, tuple) else value


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
