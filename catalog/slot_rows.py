"""What the slots' manifests say, as rows for the index: 100,000 small files a few seconds, those seen before not again.

Manifests are sealed (see `slots`) and their rows lie in columns, so many of them are joined and parsed at once by Arrow's JSON
reader under a strict schema. To check them one by one in Python, or to let DuckDB open every file, costs several times more
(see the facts). When something in a batch is not as it should be, the batch is halved until the manifest is found.

Ledgers hold the rows of manifests that were read before, for a rebuild that opens one file instead of 100,000. Their names are
their digests. The manifests stay: they are what keeps a late attempt from being first.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.json
import pyarrow.parquet as pq

from .errors import CorruptInput, SeaLionError
from .places import Place
from .schema import BY_SLOT, tables
from .slots import COUNTS, FLOW, FORMAT, NAMED_DIGITS, PLAN, Plan, digest_of, read_plan, slot_sets, unsealed

pc: Any = pyarrow.compute  # its functions are made at import, type checkers do not see them
json_reader: Any = pyarrow.json
BATCH = 10_000
"""Manifests in memory."""
PARSED = 1_000
"""Manifests that are parsed together: a megabyte or so, which stays in the processor's cache."""
FOLDED = 50_000
"""Slots in a ledger."""
LARGEST_LEDGER = 4 << 30
"""Decoded bytes."""
_TEXT, _COUNT = pa.string(), pa.int64()


def _columns(*names: str) -> pa.DataType:
    numbers = ("documents", "characters", "bytes", "tokens", "step")
    return pa.struct([(name, pa.list_(_COUNT if name in numbers else _TEXT)) for name in names])


TABLES = {"counts": "slot_counts", "tokens": "slot_tokens", "flow": "slot_flow"}
"""A manifest's table to the index's."""
FOLDED_TABLES = ("slots", *TABLES.values())
"""What a ledger holds, in this order."""
MANIFEST = pa.schema(
    [
        ("attempt", _TEXT), ("bytes", _COUNT), ("counts", _columns(*COUNTS)), ("documents", _COUNT), ("flow", _columns(*FLOW)),
        ("format", _COUNT), ("path", _TEXT), ("ref", _TEXT), ("reported", _TEXT), ("seconds", pa.float64()),
        ("sha256", _TEXT), ("slot", _TEXT), ("stage", _TEXT),
        ("tokens", _columns("language", "source", "split", "crawl", "tokenizer", "tokens")),
    ]
)  # fmt: skip
"""A manifest without its digest."""

Seen = tuple[str, frozenset[str]]
"""What an index has of a set: the set's state, and its slots and conflicts, these as `conflicts/{slot}-{12 digits}`."""
Rows = dict[str, pa.Table]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRows:
    """Rows that an index does not have yet."""

    tables: Rows = field(default_factory=lambda: {name: tables()[name].empty_table() for name in BY_SLOT})
    """Table of the index to its rows; all the tables of slots are there."""
    stale: list[tuple[str, str]] = field(default_factory=list)
    """(ref, stage) of sets that were planned anew, are damaged or gone, or lost a slot: their rows go first."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(path, problem) of what could not be read."""


def set_rows(place: Place, seen: Mapping[tuple[str, str], Seen]) -> SetRows:
    """All rows that are not `seen`; keeps them in memory, which `set_batches` does not."""
    parts = list(set_batches(place, seen))
    return SetRows(
        tables={
            name: pa.concat_tables([part.tables[name] for part in parts] or [tables()[name].empty_table()]) for name in BY_SLOT
        },
        stale=[key for part in parts for key in part.stale],
        problems=[problem for part in parts for problem in part.problems],
    )


def set_batches(place: Place, seen: Mapping[tuple[str, str], Seen]) -> Iterator[SetRows]:
    """The rows that are not `seen`, some thousand slots at a time; what a set loses comes before what it gets."""
    found: set[tuple[str, str]] = set()
    for folder, ref, stage in slot_sets(place):
        found.add((ref, stage))
        try:
            yield from _set_batches(place, folder, seen.get((ref, stage)))
        except CorruptInput as error:
            stale = [(ref, stage)] if (ref, stage) in seen else []
            yield SetRows(stale=stale, problems=[(f"{folder}/{PLAN}", _line(error))])
    if gone := [key for key in seen if key not in found]:
        yield SetRows(stale=gone)


def _set_batches(place: Place, folder: str, seen: Seen | None) -> Iterator[SetRows]:
    state = _state(place, folder)
    home = f"{folder}/{state[:NAMED_DIGITS]}"
    _, names = place.listing(home)
    there = {name[:-5] for name in names if name.endswith(".json")}
    there |= {f"conflicts/{name[:-5]}" for name in place.names(f"{home}/conflicts") if name.endswith(".json")}
    is_stale = seen is not None and (seen[0] != state or not seen[1] <= there)
    new = there if seen is None or is_stale else there - seen[1]
    if seen is not None and not is_stale and not new:
        return
    plan = read_plan(place, folder)
    if plan.digest != state:
        raise CorruptInput(f"{folder}/{PLAN}", "", "is being replaced")
    first = SetRows(stale=[(plan.ref, plan.stage)] if is_stale else [])
    if seen is None or is_stale:
        first.tables["slot_sets"] = _set_row(plan)
    wanted = {name for name in new if "/" not in name}
    conflicts = sorted(name.partition("/")[2] for name in new - wanted)
    first.tables["slot_conflicts"] = _conflict_rows(place, home, plan, conflicts, first.problems)
    yield first
    if len(wanted) > BATCH // 10:
        for rows, problems in ledgers(place, home, plan):
            rows = _only(rows, wanted)
            wanted -= set(rows["slots"]["slot"].to_pylist())
            yield SetRows(tables=SetRows().tables | rows, problems=problems)
    yield from manifest_batches(place, home, plan, sorted(wanted))


def _state(place: Place, folder: str) -> str:
    data = place.read(f"{folder}/{PLAN}")
    try:
        unsealed(data)
    except ValueError as error:
        raise CorruptInput(f"{folder}/{PLAN}", "", str(error)) from error
    return digest_of(data)


def manifest_batches(place: Place, home: str, plan: Plan, slots: list[str]) -> Iterator[SetRows]:
    """The rows of these slots by their manifests, some thousand at a time."""
    for start in range(0, len(slots), BATCH):
        batch = SetRows()
        bodies: list[tuple[str, bytes]] = []
        names = [f"{slot}.json" for slot in slots[start : start + BATCH]]
        for name, data in place.read_all(home, names):
            try:
                if isinstance(data, Exception):
                    raise data
                bodies.append((name[:-5], unsealed(data)))
            except FileNotFoundError:
                continue  # of a plan that is being replaced
            except (OSError, SeaLionError, ValueError) as error:
                batch.problems.append((f"{home}/{name}", _line(error)))
        parts = [
            part
            for start in range(0, len(bodies), PARSED)
            for part in _parsed(bodies[start : start + PARSED], home, plan, batch.problems)
        ]
        for table in FOLDED_TABLES:
            batch.tables[table] = pa.concat_tables([part[table] for part in parts] or [batch.tables[table]])
        yield batch


def _parsed(bodies: list[tuple[str, bytes]], home: str, plan: Plan, problems: list[tuple[str, str]]) -> list[Rows]:
    """The rows of sealed manifests; one that is not as it should be goes to the problems."""
    if not bodies:
        return []
    try:
        return [_rows(_checked([slot for slot, _ in bodies], [body for _, body in bodies], home, plan), plan)]
    except (ValueError, pa.ArrowException) as error:
        if len(bodies) == 1:
            problems.append((f"{home}/{bodies[0][0]}.json", f"is not a manifest: {_line(error)}"))
            return []
    half = len(bodies) // 2
    return _parsed(bodies[:half], home, plan, problems) + _parsed(bodies[half:], home, plan, problems)


def _checked(slots: list[str], bodies: list[bytes], home: str, plan: Plan) -> pa.Table:
    """The manifests as a table; raises ValueError when any of them is not what it should be."""
    joined = b"\n".join(bodies)
    options = json_reader.ReadOptions(use_threads=False, block_size=len(joined) + 1)
    strict = json_reader.ParseOptions(explicit_schema=MANIFEST, unexpected_field_behavior="error")
    table = json_reader.read_json(pa.BufferReader(joined), read_options=options, parse_options=strict).combine_chunks()
    table.validate(full=True)  # text that is not UTF-8
    if len(table) != len(bodies):
        raise ValueError("it is not one line")
    if any(map(_has_nulls, table.columns)):
        raise ValueError("a field is missing")
    if pc.any(pc.not_equal(table["format"], FORMAT)).as_py():
        raise ValueError("this version does not know its format")
    claims = [(table["ref"], plan.ref), (table["stage"], plan.stage), (table["slot"], pa.chunked_array([slots], _TEXT))]
    if any(pc.any(pc.not_equal(column, wanted)).as_py() for column, wanted in claims):
        raise ValueError("it claims to be another slot's")
    if unplanned := [slot for slot in slots if slot not in plan.slots]:
        raise ValueError(f"slot {unplanned[0]} is not planned")
    _check_values(table, home)
    return table


def _check_values(table: pa.Table, home: str) -> None:
    digits = table["sha256"]
    if not pc.all(pc.match_substring_regex(digits, r"^[0-9a-f]{64}\z")).as_py():
        raise ValueError("its sha256 is none")
    named = pc.binary_join_element_wise(table["slot"], pc.utf8_slice_codeunits(digits, 0, NAMED_DIGITS), "-")
    expected = pc.binary_join_element_wise(pa.scalar(f"{home}/shards/"), named, pa.scalar(".parquet"), "")
    if not pc.all(pc.or_(pc.equal(table["path"], ""), pc.equal(table["path"], expected))).as_py():
        raise ValueError("the path of its shard leads elsewhere")
    numbers = [table["bytes"], table["documents"], table["seconds"]]
    for name in TABLES:
        struct = table[name].combine_chunks()
        columns = [pc.struct_field(struct, index) for index in range(struct.type.num_fields)]
        lengths = [pc.list_value_length(column) for column in columns]
        if any(not length.equals(lengths[0]) for length in lengths):
            raise ValueError(f"the columns of {name} differ in length")
        numbers += [pc.list_flatten(column) for column in columns if column.type.value_type == _COUNT]
    if any(len(column) and pc.min(column).as_py() < 0 for column in numbers):
        raise ValueError("a number is below 0")


def _has_nulls(column: pa.ChunkedArray) -> bool:
    array = column.combine_chunks()
    if array.null_count:
        return True
    if not pa.types.is_struct(array.type):
        return False
    fields = [pc.struct_field(array, index) for index in range(array.type.num_fields)]
    return any(inner.null_count or pc.list_flatten(inner).null_count for inner in fields)


def _rows(manifests: pa.Table, plan: Plan) -> Rows:
    slots = manifests["slot"].combine_chunks()
    flat = {name: manifests[name] for name in ("path", "sha256", "bytes", "documents", "seconds", "attempt")}
    labels = pa.array([plan.slots[slot] for slot in slots.to_pylist()], _TEXT)
    times = manifests["reported"].cast(pa.timestamp("us", tz="UTC"))
    rows = {"slots": _table("slots", plan, len(slots), {"slot": slots, "label": labels, "reported": times, **flat})}
    for name, table in TABLES.items():
        struct = manifests[name].combine_chunks()
        columns = {kind.name: pc.struct_field(struct, index) for index, kind in enumerate(struct.type)}
        parents = pc.list_parent_indices(next(iter(columns.values())))
        flattened = {column: pc.list_flatten(values) for column, values in columns.items()}
        rows[table] = _table(table, plan, len(parents), {"slot": slots.take(parents), **flattened})
    return rows


def _table(name: str, plan: Plan, length: int, columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """A table of the index's schema; one that has more columns than manifests have keeps them empty."""
    columns = {"ref": pa.repeat(plan.ref, length), "stage": pa.repeat(plan.stage, length), **columns}
    schema = tables()[name]
    arrays = [columns[kind.name].cast(kind.type) if kind.name in columns else pa.nulls(length, kind.type) for kind in schema]
    return pa.table(arrays, schema=schema)


def _set_row(plan: Plan) -> pa.Table:
    created = pa.array([datetime.fromisoformat(plan.created)], pa.timestamp("us", tz="UTC"))
    columns = {"planned": pa.array([len(plan.slots)]), "created": created, "state": pa.array([plan.digest])}
    return _table("slot_sets", plan, 1, {"fingerprint": pa.array([plan.fingerprint]), **columns})


def _conflict_rows(place: Place, home: str, plan: Plan, names: list[str], problems: list[tuple[str, str]]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for name, data in place.read_all(f"{home}/conflicts", [f"{name}.json" for name in names]) if names else ():
        try:
            if isinstance(data, Exception):
                raise data
            value = json.loads(unsealed(data))
            row: dict[str, Any] = {column: str(value[column]) for column in ("slot", "sha256", "kept_sha256", "attempt")}
            if (value["ref"], value["stage"], value["format"]) != (plan.ref, plan.stage, FORMAT):
                raise ValueError("it claims to be another set's")
            if row["slot"] not in plan.slots or name != f"{row['slot']}-{row['sha256'][:NAMED_DIGITS]}.json":
                raise ValueError("it claims to be another slot's")
            rows.append(row | {"reported": datetime.fromisoformat(value["reported"])})
        except (OSError, SeaLionError, ValueError, KeyError, TypeError, RecursionError) as error:
            problems.append((f"{home}/conflicts/{name}", f"is not a conflict: {_line(error)}"))
    schema = tables()["slot_conflicts"]
    return pa.Table.from_pylist([{"ref": plan.ref, "stage": plan.stage} | row for row in rows], schema=schema)


# -- ledgers ---------------------------------------------------------------------------------------------------------------


def fold(place: Place, folder: str, *, at_least: int = BATCH) -> int:
    """Write the rows of manifests that no ledger has into ledgers, when there are so many; returns how many there were."""
    plan = read_plan(place, folder)
    home = f"{folder}/{plan.digest[:NAMED_DIGITS]}"
    slots = {name[:-5] for name in place.names(home) if name.endswith(".json")}
    for rows, _ in ledgers(place, home, plan):
        slots -= set(rows["slots"]["slot"].to_pylist())
    if len(slots) < at_least:
        return 0
    ordered, folded = sorted(slots), 0
    for start in range(0, len(ordered), FOLDED):
        parts = list(manifest_batches(place, home, plan, ordered[start : start + FOLDED]))
        tagged = [
            part.tables[name].append_column("table", pa.repeat(name, len(part.tables[name])))
            for name in FOLDED_TABLES
            for part in parts
        ]
        buffer = io.BytesIO()
        pq.write_table(pa.concat_tables(tagged, promote_options="default"), buffer, compression="zstd")
        data = buffer.getvalue()
        place.create(f"{home}/ledgers/{sha256(data).hexdigest()}.parquet", data)
        folded += sum(len(part.tables["slots"]) for part in parts)
    return folded


def ledgers(place: Place, home: str, plan: Plan) -> Iterator[tuple[Rows, list[tuple[str, str]]]]:
    """The rows of each ledger of a set; none, and the problem, for one that is damaged: its manifests are read instead."""
    for name in sorted(place.names(f"{home}/ledgers")):
        path = f"{home}/ledgers/{name}"
        try:
            yield _ledger(place.read(path), name, plan), []
        except (OSError, SeaLionError, ValueError, KeyError, pa.ArrowException) as error:
            yield (
                {table: tables()[table].empty_table() for table in FOLDED_TABLES},
                [(path, f"is not a ledger: {_line(error)}")],
            )


def _ledger(data: bytes, name: str, plan: Plan) -> Rows:
    if name != f"{sha256(data).hexdigest()}.parquet":
        raise ValueError("its digest differs")
    file = pq.ParquetFile(io.BytesIO(data))
    if sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)) > LARGEST_LEDGER:
        raise ValueError("it is too large")
    whole, start = file.read(), 0
    if pc.unique(whole["ref"]).to_pylist() != [plan.ref] or pc.unique(whole["stage"]).to_pylist() != [plan.stage]:
        raise ValueError("it is another set's")
    lengths = {pair["values"]: pair["counts"] for pair in pc.value_counts(whole["table"]).to_pylist()}
    rows = {}
    for table in FOLDED_TABLES:
        part, schema = whole.slice(start, lengths.get(table, 0)), tables()[table]
        has = {name: part[name] for name in part.column_names}
        arrays = [has[kind.name].cast(kind.type) if kind.name in has else pa.nulls(len(part), kind.type) for kind in schema]
        rows[table], start = pa.table(arrays, schema=schema), start + len(part)
    return rows


def _only(rows: Rows, slots: set[str]) -> Rows:
    """The rows of these slots."""
    if set(rows["slots"]["slot"].to_pylist()) <= slots:
        return rows
    wanted = pa.array(sorted(slots), _TEXT)
    return {name: part.filter(pc.is_in(part["slot"], wanted)) for name, part in rows.items()}


def _line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).splitlines()[0].split())
