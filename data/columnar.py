"""Common Crawl's columnar index: read by DuckDB, local or remote, and made for WARC files of one's own.

The index is Parquet with one row a capture (https://github.com/commoncrawl/cc-index-table). DuckDB reads it through fsspec: its
own `httpfs` is a download at run time, which a closed cluster does not allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.http import HTTPFileSystem

from ..catalog.errors import CorruptInput, MissingDependency, SeaLionError, Unfinished
from ..catalog.languages import LANGUAGES, UNKNOWN, language_code
from .shards import domain_of
from .warc import responses

if TYPE_CHECKING:
    from .plan import Selection

INDEX = pa.schema(
    [
        *((name, pa.string()) for name in ("url_surtkey", "url", "url_host_registered_domain")),
        ("fetch_time", pa.timestamp("ms", tz="UTC")),
        ("fetch_status", pa.int16()),
        *((name, pa.string()) for name in ("content_digest", "content_mime_type", "content_mime_detected", "content_charset")),
        *((name, pa.string()) for name in ("content_languages", "content_truncated", "warc_filename")),
        ("warc_record_offset", pa.int64()),
        ("warc_record_length", pa.int64()),
        *((name, pa.string()) for name in ("warc_segment", "crawl", "subset")),
    ]
)
"""The columns of Common Crawl's index that are of use here, and (since 2018-34) enough to select by language."""
NEEDED = (
    "url", "fetch_status", "content_digest", "content_languages", "warc_filename", "warc_record_offset", "warc_record_length",
)  # fmt: skip
OF_DOCUMENTS = ("url", "file", "offset", "length", "digest", "language", "crawl")
MAX_LANGUAGES = 3
"""Languages that CLD2 notes of a page."""


class _Addresses(HTTPFileSystem):  # type: ignore[misc]  # fsspec is untyped
    """fsspec's http(s) as DuckDB wants it: an address is one file and no pattern, and does not change while it is read."""

    def glob(self, path: str, maxdepth: int | None = None, **_: Any) -> list[str]:
        """The address itself: asking a server for a listing would fetch the file."""
        return [path]

    def modified(self, path: str) -> datetime:
        """The same at all times."""
        return datetime(2000, 1, 1, tzinfo=UTC)


@contextmanager
def open_duckdb(
    patterns: Sequence[str], memory_limit: str, scratch: Path
) -> Iterator[tuple[duckdb.DuckDBPyConnection, list[str]]]:
    """A DuckDB that spills into `scratch` beyond `memory_limit`, and the Parquet files that paths, globs and addresses name."""
    connection = duckdb.connect(config={"autoload_known_extensions": False, "autoinstall_known_extensions": False})
    spill = scratch / ".duckdb"
    try:
        connection.execute("SET enable_progress_bar = false")
        connection.execute("SET memory_limit = ?", [memory_limit])
        connection.execute("SET temp_directory = ?", [str(spill)])
        connection.execute("SET preserve_insertion_order = false")
        for protocol in sorted({pattern.partition("://")[0] for pattern in patterns if "://" in pattern}):
            connection.register_filesystem(_filesystem(protocol))
        yield connection, _files(connection, patterns)
    except duckdb.OutOfMemoryException as error:
        raise SeaLionError(f"{patterns[0]}: takes more memory than {memory_limit} to plan; raise memory_limit") from error
    except (duckdb.Error, pa.ArrowException, aiohttp.ClientError, FileNotFoundError, PermissionError) as error:
        problem = (str(error).strip() or repr(error)).splitlines()[0]
        if "No space left" in problem:
            raise Unfinished(f"{scratch}: {problem}") from error
        raise CorruptInput(patterns[0], f"one of {len(patterns)} inputs", problem) from error
    finally:
        connection.close()
        if spill.is_dir() and not any(spill.iterdir()):
            spill.rmdir()


def _filesystem(protocol: str) -> Any:
    if protocol in ("http", "https"):
        return _Addresses(cache_type="none", skip_instance_cache=True)
    try:
        return fsspec.filesystem(protocol)
    except ImportError as error:
        raise MissingDependency(f"the fsspec backend of {protocol}", f"to read {protocol}:// files") from error


def _files(connection: duckdb.DuckDBPyConnection, patterns: Sequence[str]) -> list[str]:
    found: set[str] = set()
    for pattern in patterns:
        matches = [file for (file,) in connection.execute("SELECT file FROM glob(?)", [pattern]).fetchall()]
        if not matches:
            raise CorruptInput(pattern, "", "no file matches this pattern")
        found.update(matches)
    if not found:
        raise ValueError("no index files given")
    return sorted(found)


def _source(
    connection: duckdb.DuckDBPyConnection, files: Sequence[str], needed: Sequence[str], *, may_be_partitioned: bool = True
) -> tuple[str, set[str]]:
    """The files as a table of DuckDB's, and its columns; partition folders (`crawl=…/subset=…`) are columns too."""
    listed = ", ".join(_quoted(file) for file in files)
    is_partitioned = may_be_partitioned and all("/crawl=" in file for file in files)
    table = f"read_parquet([{listed}], union_by_name = true, hive_partitioning = {str(is_partitioned).lower()})"
    columns = {row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()}
    missing = [name for name in needed if name not in columns]
    if missing:
        raise CorruptInput(files[0], f"one of {len(files)} files", f"has no column {missing[0]!r}")
    return table, columns


def _quoted(text: str | int) -> str:
    return str(text) if isinstance(text, int) else "'" + text.replace("'", "''") + "'"


def _listed(values: Iterable[str | int]) -> str:
    return "(" + ", ".join(_quoted(value) for value in values) + ")"


def pages_sql(connection: duckdb.DuckDBPyConnection, files: Sequence[str], selection: Selection) -> str:
    """The query that gives a plan's columns for the selected pages of an index."""
    if not selection.languages or not selection.statuses or not selection.media_types:
        raise ValueError("languages, statuses and media_types must each name something")
    table, columns = _source(connection, files, NEEDED)
    crawl = "regexp_extract(warc_filename, '(?:^|/)crawl-data/([^/]+)/', 1)"
    media = [name for name in ("content_mime_detected", "content_mime_type") if name in columns]
    if not media:
        raise CorruptInput(files[0], f"one of {len(files)} files", "has no column 'content_mime_detected'")
    subset = "AND (subset = 'warc' OR subset IS NULL)" if "subset" in columns else ""
    pages = f"""
        SELECT warc_filename, warc_record_offset::BIGINT AS warc_record_offset,
            warc_record_length::BIGINT AS warc_record_length, url,
            CASE WHEN regexp_full_match(content_digest, '[A-Z2-7]{{32}}') THEN content_digest ELSE '' END AS content_digest,
            content_languages, {_language(selection)} AS language,
            {f"coalesce(crawl::VARCHAR, {crawl})" if "crawl" in columns else crawl} AS crawl
        FROM {table}
        WHERE fetch_status IN {_listed(selection.statuses)} {subset}
            AND coalesce({", ".join(media)}) IN {_listed(selection.media_types)} AND language IS NOT NULL"""
    if not selection.once:
        return pages
    payload = "CASE content_digest WHEN '' THEN concat(warc_filename, ' ', warc_record_offset) ELSE content_digest END"
    return f"SELECT unnest(min_by(page, (crawl, warc_filename, warc_record_offset))) FROM ({pages}) AS page GROUP BY {payload}"


def _language(selection: Selection) -> str:
    """The wanted language of a page, NULL when it has none: the first code of the annotation, or any."""
    codes: dict[str, str] = {}
    for language in selection.languages:
        code = language_code(language)
        if not (code.isascii() and code.isalpha() and len(code) == 3):
            raise ValueError(f"{language!r} is not an ISO 639-3 code")
        codes |= {code: code} | ({LANGUAGES[code].cld2: code} if code in LANGUAGES else {})
    cases = " ".join(f"WHEN {_quoted(noted)} THEN {_quoted(code)}" for noted, code in codes.items())
    parts = range(1, 1 + (1 if selection.match == "primary" else MAX_LANGUAGES))
    return "coalesce({})".format(
        ", ".join(f"CASE trim(split_part(content_languages, ',', {part})) {cases} END" for part in parts)
    )


def documents_sql(connection: duckdb.DuckDBPyConnection, files: Sequence[str]) -> str:
    """The query that gives a plan's columns for the documents of a corpus; a record that was read twice is named once."""
    table, _ = _source(connection, files, OF_DOCUMENTS, may_be_partitioned=False)
    return f"""
        SELECT DISTINCT ON (file, "offset", digest, url) file AS warc_filename, "offset"::BIGINT AS warc_record_offset,
            length::BIGINT AS warc_record_length, url, coalesce(digest, '') AS content_digest, '' AS content_languages,
            coalesce(nullif(language, ''), '{UNKNOWN}') AS language, coalesce(crawl, '') AS crawl
        FROM {table} AS document WHERE length > 0 ORDER BY file, "offset", digest, url, document.language"""


def index_rows(path: Path, file: str = "", crawl: str = "") -> Iterator[dict[str, Any]]:
    """Rows of `INDEX` for the pages of a local WARC file that a crawl would list under `subset=warc`: those that answered 200.

    `file` is what `warc_filename` shall say, by default the file's name. `url_surtkey` has the host reversed and nothing else
    normalised: it sorts, but it is no key to look up in Common Crawl's own index.
    """
    cld2 = {code: language.cld2 for code, language in LANGUAGES.items()}
    for response in responses(path):
        if response.status != 200 or not response.url:
            continue
        noted = [cld2.get(code, code) for code, _ in response.claim.shares] if response.claim else []
        yield {
            "url_surtkey": _surt(response.url), "url": response.url, "url_host_registered_domain": domain_of(response.url),
            "fetch_time": _time(response.date), "fetch_status": response.status, "content_digest": response.digest,
            "content_mime_type": response.content_type.partition(";")[0].strip(), "content_mime_detected": response.media_type,
            "content_charset": response.charset or None, "content_languages": ",".join(noted) or None,
            "content_truncated": response.truncated or None, "warc_filename": file or path.name,
            "warc_record_offset": response.offset, "warc_record_length": response.length, "warc_segment": "",
            "crawl": crawl, "subset": "warc",
        }  # fmt: skip


def write_index(paths: Iterable[Path], root: Path, out: Path, crawl: str = "") -> int:
    """Index local WARC files, named relative to `root`, the mirror they will be fetched from; gives the number of rows."""
    rows = 0
    with pq.ParquetWriter(out, INDEX, compression="zstd") as writer:
        for path in paths:
            table = pa.Table.from_pylist(list(index_rows(path, path.relative_to(root).as_posix(), crawl)), schema=INDEX)
            writer.write_table(table)
            rows += table.num_rows
    return rows


def _surt(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
    except ValueError:
        return ""
    return f"{','.join(reversed(host.split('.')))}){parts.path or '/'}{'?' * bool(parts.query)}{parts.query}"


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None
