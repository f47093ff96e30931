"""Documents of other sources, one by one, as rows of one shape: Parquet, JSON Lines, WET, Wikipedia dumps, Hugging Face's hub.

A row that cannot be used comes with the reason, to be counted; a file that is not what its form says is CorruptInput. All of it
streams: a file of any size, in one row group or on one line, is read in bounded memory. pyarrow opens compressed files (several
members included), because it reports one that is cut short, where zstandard's own reader just ends. Reading through `datasets`
alone was refused: one bad byte ends its iteration, and it hides which line a row was.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from ..catalog.errors import CorruptInput, MissingDependency
from ..catalog.languages import language_code
from .presets import FILE, Columns, Preset, named_columns

MAX_TEXT_BYTES = 16 << 20
"""Bytes of a document, and of a line of JSON; a longer one is the fault `too_large`."""
MAX_ID = 512
"""Characters of an id."""
BATCH = 64
"""Rows of Parquet decoded at once."""
BUFFER = 1 << 20
"""Bytes read at once."""
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
"""First bytes of a compressed file; its name is not believed."""
NOT_UTF8 = b"\xff"
"""Stands for a Parquet string that is not UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One document of a source."""

    id: str
    """The source's, unless it has none, it is no printable text or occurs twice in the file; then the digest of the text."""
    text: str
    """With the title as first line where the source keeps it apart; empty when there is a fault."""
    url: str = ""
    language: str = ""
    """ISO 639-3 (a code we do not know stays as it is), or `code`; empty: the source does not say, or is not to be believed."""
    crawl: str = ""
    date: str = ""
    """As the source writes it."""
    file: str
    """Name of the file, or of the data set on the hub."""
    position: int
    """Line, row or page, counted from 1; of a WET record the byte where it begins."""
    licence: str
    """Its own, else the source's."""
    fault: str = ""
    """Why it cannot be used: `no_text`, `not_utf8`, `lone_surrogates`, `too_large`, `not_json`, …; empty when it can."""


Record = dict[str, Any] | str
"""A row as its form holds it, or the fault that kept it from being read."""
Records = Iterator[tuple[int, Record]]


def read_rows(preset: Preset, path: Path | str = "") -> Iterator[Row]:
    """Every row of a file, in its order.

    For form `hub`, `path` is a local folder, or "" for the data set's name. Raises CorruptInput for a file that is not what
    the form says, at the first row or where it is damaged, and SeaLionError when the hub cannot be reached.
    """
    records: Records
    if preset.form == "hub":
        from .hub import hub_rows

        name, records = Path(path).name or preset.hub, hub_rows(preset, str(path) if path else "")
    else:
        name, records = Path(path).name, FORMS[preset.form](preset, Path(path))
    places, seen, is_first = _places(preset), SeenIds(), True
    for position, record in records:
        if is_first and preset.form in ("jsonl", "hub") and isinstance(record, dict):
            _check_first(preset, path or name, position, record)
        is_first = False
        yield _row(preset, places, seen, name, position, record)
    if is_first:
        raise CorruptInput(path or name, "", "holds no documents")


def check(preset: Preset, path: Path) -> None:
    """Raise CorruptInput when a file's beginning (of Parquet also its end) shows that it is not what the form says."""
    next(read_rows(preset, path))


class SeenIds:
    """Whether an id came before, in 32 MiB for any number of ids.

    A Bloom filter of four bits an id: it never forgets, and takes a new id for an old one once in 2,000 at 10 million ids, once
    in 20 million at a million. Such a document gets the digest of its text as id, as if it were a repetition.
    """

    SHIFTS = (0, 28, 56, 84)

    def __init__(self) -> None:
        self._bits = bytearray(1 << 25)

    def add(self, id: str) -> bool:
        """Whether the id is new."""
        digest, new = xxhash.xxh3_128_intdigest(id.encode()), False
        for shift in self.SHIFTS:
            byte, bit = divmod(digest >> shift & 0xFFFFFFF, 8)
            new |= not self._bits[byte] >> bit & 1
            self._bits[byte] |= 1 << bit
        return new


def _places(preset: Preset) -> dict[str, list[str]]:
    """Where a record holds what; WET files and dumps have no columns, their records are named as ours are."""
    if preset.form in ("wet", "wikipedia"):
        return {each.name: [each.name] for each in fields(Columns)}
    return {each.name: [] for each in fields(Columns)} | {role: keys for role, (keys, _) in named_columns(preset).items()}


def _check_first(preset: Preset, source: Path | str, position: int, record: dict[str, Any]) -> None:
    """Raise CorruptInput when the first row has not the keys that it must have: they are misnamed."""
    for role, (keys, may_miss) in named_columns(preset).items():
        inner = _at(record, keys[:-1]) if len(keys) > 1 else record
        if not may_miss and not (isinstance(inner, dict) and keys[-1] in inner):
            raise CorruptInput(source, f"row {position}", _missing(preset, role, ".".join(keys), list(record)))


def _at(record: dict[str, Any], keys: list[str]) -> Any:
    value: Any = record if keys else None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _row(preset: Preset, places: dict[str, list[str]], seen: SeenIds, file: str, position: int, record: Record) -> Row:
    values = record if isinstance(record, dict) else {}
    read = {name: _at(values, keys) for name, keys in places.items()}
    text, fault = ("", record) if isinstance(record, str) else _text(read["text"])
    title = read["title"]
    if text and isinstance(title, str) and title.strip() and _is_unicode(title):
        text = f"{title.strip()}\n{text}"
    fault = fault or next(
        (f"other_{name}" for name, wanted in preset.only.items() if _at(values, name.split(".")) not in wanted), ""
    )
    id = read["id"]
    id = str(id) if isinstance(id, (str, int)) and not isinstance(id, bool) else ""
    if not (0 < len(id) <= MAX_ID and id.isprintable() and seen.add(id)):
        id = hashlib.sha256((text or f"{file}:{position}").encode()).hexdigest()[:32]
    said = file if preset.columns.language == FILE else read["language"]
    return Row(
        id=id, text="" if fault else text, url=_word(read["url"]), language=_language(preset, said),
        crawl=_word(read["crawl"]), date=_word(read["date"]), file=file, position=position,
        licence=_licence(preset, read["licence"]), fault=fault,
    )  # fmt: skip


def _text(value: Any) -> tuple[str, str]:
    """The text, and why it cannot be used."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return "", "not_utf8"
    if value is None:
        return "", "no_text"
    if not isinstance(value, str):
        return "", "text_is_no_string"
    if not _is_unicode(value):
        return "", "lone_surrogates"
    if len(value) > MAX_TEXT_BYTES // 4 and len(value.encode()) > MAX_TEXT_BYTES:
        return "", "too_large"
    return value, "" if value.strip() else "empty"


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON may escape halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _word(value: Any) -> str:
    value = value.isoformat() if isinstance(value, date) else value
    return value if isinstance(value, str) and _is_unicode(value) else ""


def _language(preset: Preset, said: Any) -> str:
    """What the source says about a document's language, in our codes."""
    if preset.trust == "ignored":
        return ""
    if preset.language:
        return preset.language
    code = _word(said[0] if isinstance(said, (list, tuple)) and said else said)
    if preset.language_pattern:
        match = re.search(preset.language_pattern, code)
        code = match[1] or "" if match else ""
    return preset.language_map.get(code, language_code(code))


def _licence(preset: Preset, own: Any) -> str:
    names = {_word(name) for name in (own if isinstance(own, (list, tuple)) else [own])} - {""}
    return " AND ".join(sorted(names)) or preset.licence


def _parquet(preset: Preset, path: Path) -> Records:
    position = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER) as file:
            wanted = _wanted(preset, file.schema_arrow, path)
            for batch in file.iter_batches(batch_size=BATCH, columns=wanted, use_threads=False):
                columns = [_values(column) for column in batch.columns]
                for values in zip(*columns, strict=True):
                    position += 1
                    yield position, dict(zip(batch.schema.names, values, strict=True))
    except (pa.ArrowException, OSError) as error:
        where = f"row {position + 1} or later" if position else ""
        raise CorruptInput(path, where, f"cannot be read as Parquet: {_line(error)}") from error


def _wanted(preset: Preset, schema: Any, path: Path) -> list[str]:
    """The columns to read; raises CorruptInput when one that must be there is not, or the text is no text."""
    found: list[str] = []
    for role, (keys, may_miss) in named_columns(preset).items():
        name, kind = ".".join(keys), _type(schema, keys)
        if kind is None and may_miss:
            continue
        if kind is None:
            raise CorruptInput(path, "", _missing(preset, role, name, schema.names))
        if role == "text" and not _is_text(kind):
            raise CorruptInput(path, "", f"the column {name!r} is {kind}, not text")
        found.append(name)
    return found


def _missing(preset: Preset, role: str, name: str, names: list[str]) -> str:
    message = f"has no column {name!r} for the {role}; it has {', '.join(names)}"
    return f"{message}; {preset.hint}" if preset.hint and role == "text" else message


def _type(schema: Any, keys: list[str]) -> Any:
    """The Arrow type of a column, None when there is none."""
    kind = schema
    for key in keys:
        if kind is None or not (kind is schema or pa.types.is_struct(kind)) or kind.get_field_index(key) < 0:
            return None
        kind = kind.field(key).type
    return kind


def _is_text(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(is_kind(kind) for is_kind in TEXT_TYPES)


TEXT_TYPES: tuple[Callable[[Any], bool], ...] = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary, pa.types.is_large_binary,
)  # fmt: skip


def _values(column: Any) -> list[Any]:
    try:
        return cast(list[Any], column.to_pylist())
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return NOT_UTF8


def opened(path: Path) -> BinaryIO:
    """A file's content, whether it is compressed or not; reading raises OSError where it is damaged or cut short."""
    with path.open("rb") as file:
        head = file.read(4)
    kind = next((name for magic, name in MAGIC.items() if head.startswith(magic)), "")
    if not kind:
        return path.open("rb", buffering=BUFFER)
    return cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), kind), BUFFER))


def _jsonl(preset: Preset, path: Path) -> Records:
    number, is_first = 0, True
    try:
        with opened(path) as file:
            while line := file.readline(MAX_TEXT_BYTES + 1):
                number += 1
                record = _too_long(file, line) if len(line) > MAX_TEXT_BYTES else _object(line)
                if record is None:
                    continue
                if is_first and record in ("not_json", "not_an_object", "too_large"):
                    raise CorruptInput(path, f"line {number}", _not_jsonl(line))
                is_first = False
                yield number, record
    except OSError as error:
        raise CorruptInput(path, f"line {number + 1} or later", f"cannot be read: {_line(error)}") from error


def _object(line: bytes) -> Record | None:
    """The object on a line, or the fault; None when the line is blank."""
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "not_utf8"
    if not text.strip():
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "not_json"
    return cast(Record, value) if isinstance(value, dict) else "not_an_object"


def _too_long(file: BinaryIO, line: bytes) -> str:
    """Read on to the end of the line."""
    while line and not line.endswith(b"\n"):
        line = file.readline(BUFFER)
    return "too_large"


def _not_jsonl(line: bytes) -> str:
    if line.lstrip(b"\xef\xbb\xbf \t").startswith(b"["):
        return "begins an array; JSON Lines has one object a line"
    return f"is no JSON object, so this is no JSON Lines file: {line[:60].decode('utf-8', 'replace')!r}"


def _wet(preset: Preset, path: Path) -> Records:
    from .warc import check_warc, conversions

    check_warc(path)
    for found in conversions(path):
        yield found.offset, found.fault or {
            "id": found.record_id, "text": found.text, "url": found.url, "language": found.languages, "date": found.date,
        }  # fmt: skip


def _wikipedia(preset: Preset, path: Path) -> Records:
    try:
        from .wikipedia import NotADump, articles
    except ImportError as error:
        raise MissingDependency("sea-lion-platform[wikipedia]", "to read Wikipedia's dumps") from error
    number = 0
    try:
        with opened(path) as file:
            for number, page in enumerate(articles(file), 1):
                yield number, page.fault or {
                    "id": page.id, "text": page.text, "title": page.title, "url": page.url, "language": page.language,
                    "date": page.date,
                }  # fmt: skip
    except (NotADump, OSError) as error:
        where = f"after page {number}" if number else ""
        raise CorruptInput(path, where, f"cannot be read as a Wikipedia dump: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


FORMS: dict[str, Callable[[Preset, Path], Records]] = {
    "parquet": _parquet,
    "jsonl": _jsonl,
    "wet": _wet,
    "wikipedia": _wikipedia,
}
"""The forms that are files."""
