"""Gathers conversations or preference pairs from files in the common formats into one Parquet file, in bounded memory.

Rows stream from the files through the checks (format, licence, language, evaluation items) into a spool on disk; DuckDB finds
the duplicates among the spool's digests, spilling to disk; what is left streams into `conversations.parquet`, in order. A set
of millions of rows needs the memory of one of thousands; a set of the digests seen, the refused alternative, would grow.

By default one bad row refuses the whole set and is named: a trainer that skips rows silently trains on something else than its
recipe says. With `bad_rows = "count"` bad rows are left out. Every row left out is in `rejected.parquet` with its reason, and
`ledger.parquet` has the counts.
"""

from __future__ import annotations

import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from ..catalog.errors import CorruptInput
from ..catalog.languages import LANGUAGES, UNKNOWN, language_code
from ..catalog.records import Conversations
from ..catalog.store import Job, Made
from .chat_files import raw_rows, stem
from .chat_formats import BadRow, Form, Messages, canonical, turns
from .chat_recipe import ConversationsRecipe
from .database import bounded, parquet
from .decontaminate import NgramIndex
from .language import identify

log = logging.getLogger(__name__)

FILE = "conversations.parquet"
LEDGER = "ledger.parquet"
REJECTED = "rejected.parquet"
ENGLISH_SETS = ("general", "maths")
"""File names that are topics; their language is English."""
STAGES = ("read", "licence", "language", "contamination", "duplicate")
"""Where rows are left out, in order."""
GROUP_ROWS, GROUP_CHARACTERS = 2048, 8 << 20
"""At most so much is in memory at a time, and in a row group of the file."""
MEMORY_LIMIT = "512MB"
"""Of DuckDB while it looks for duplicates; what is more goes to disk."""
MIN_LETTERS = 20
"""A turn with fewer says too little to tell its language."""
MIN_SCORE = 0.5
"""Nor one with a lower probability."""

_EXTRA = [("turn_languages", pa.list_(pa.string())), ("licence", pa.string())]
MESSAGES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("language", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        *_EXTRA,
    ]
)
PREFERENCE_SCHEMA = pa.schema([*((name, pa.string()) for name in ("id", "language", "prompt", "chosen", "rejected")), *_EXTRA])
LEDGER_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("file", "stage", "outcome", "language", "reason")] + [("rows", pa.int64())]
)
REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("file", "place", "stage", "reason", "detail")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a set is gathered: what the recipe says."""

    form: Form
    """Conversations or pairs."""
    layout: str = "exact"
    """A format of `chat_formats`, or `auto`."""
    bad_rows: Literal["refuse", "count"] = "refuse"
    """What a bad row, or one under a licence that is not allowed, does: refuse the set, or be left out and counted."""
    language: str = "file"
    """`file`: the file's name says it; `identify`: the text does; else the code of all rows."""
    language_column: str = ""
    """Key of a row that says its language; where it is missing, `language` holds."""
    languages: tuple[str, ...] = ()
    """Wanted languages; empty: all."""
    licence: str = ""
    """Licence of rows that name none."""
    licence_column: str = ""
    """Key of a row that says its licence."""
    licences: tuple[str, ...] = ()
    """Licences that are allowed; empty: all."""
    deduplicate: bool = True
    """Leave out rows whose turns are those of an earlier one in the same language, but for case, width and spaces."""


def gather_conversations(job: Job[ConversationsRecipe]) -> Made:
    """Gather the recipe's files into `conversations.parquet`; raises CorruptInput for a bad row that refuses the set."""
    recipe = job.recipe
    settings = Settings(
        form=recipe.form, layout=recipe.format, bad_rows=recipe.bad_rows, language=recipe.language,
        language_column=recipe.language_column, languages=recipe.languages, licence=recipe.licence,
        licence_column=recipe.licence_column, licences=recipe.licences, deduplicate=recipe.deduplicate,
    )  # fmt: skip
    files = list(job.files.get("files", []))
    if recipe.synthesis:
        files += sorted(job.folder_of(recipe.synthesis).glob("*-synthetic.jsonl"))
    ngrams = NgramIndex(job.folder_of(recipe.evaluation_ngrams)) if recipe.evaluation_ngrams else None
    languages = gather(files, job.folder, settings, ngrams)
    rows = sum(languages.values())
    log.info("%s: %d rows in %d languages", recipe.ref, rows, len(languages))
    licences = pq.read_table(job.folder / FILE, columns=["licence"])["licence"].unique().to_pylist()
    body = Conversations(form=recipe.form, rows=rows, languages=languages)
    return Made(body=body, licences=tuple(sorted(licence for licence in licences if licence)))


def gather(files: Iterable[Path], folder: Path, settings: Settings, ngrams: NgramIndex | None = None) -> dict[str, int]:
    """Gather files into a folder; language to the rows that are left.

    Raises CorruptInput for two files of one name, a damaged file, a bad row that refuses the set, and when no row is left.
    """
    paths = list(dict.fromkeys(files))
    stems: dict[str, Path] = {}
    for path in paths:
        if stem(path) in stems:
            raise CorruptInput(path, "", f"has the name of {stems[stem(path)]}: ids would not be unique")
        stems[stem(path)] = path
    spool = folder / "spool.parquet"
    schema = MESSAGES_SCHEMA if settings.form == "messages" else PREFERENCE_SCHEMA
    with Ledger(folder) as ledger:
        with _Writer(spool, schema.append(pa.field("digest", pa.binary(16)))) as writer:
            for path in paths:
                for row in read_rows(path, settings, ngrams, ledger):
                    writer.add(row | {"digest": _digest(row)}, sum(len(turn["content"]) for turn in turns(row)))
        languages = _without_duplicates(spool, folder / FILE, schema, settings.deduplicate, ledger)
    spool.unlink()
    if not languages:
        raise CorruptInput(folder.name if not paths else paths[0], "", f"no row is left: {ledger.summary()}")
    return dict(sorted(languages.items()))


def read_rows(
    path: Path, settings: Settings, ngrams: NgramIndex | None = None, ledger: Ledger | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of one file that pass all checks but the one for duplicates; id is `<stem>-<number>`.

    Raises CorruptInput naming file and line for a row that refuses the set, and for a file without a row.
    """
    said = file_language(path) if settings.language == "file" else "" if settings.language == "identify" else settings.language
    name, number = stem(path), 0
    for number, (where, raw) in enumerate(raw_rows(path), 1):
        stage, language = "read", said
        if ledger:
            ledger.count(name, stage, "in", said or UNKNOWN)
        try:
            if isinstance(raw, BadRow):
                raise raw
            row = canonical(raw, settings.form, settings.layout)
            stage = "licence"
            licence = _licence(raw, settings)
            stage = "language"
            spoken = [turn_language(turn["content"]) for turn in turns(row)]
            language = language_code(str(raw.get(settings.language_column) or "")) or said or _main_language(turns(row), spoken)
            if settings.languages and language not in settings.languages:
                raise _LeftOut(f"language_{language}", "not a wanted language")
            stage = "contamination"
            _check_clean(row, ngrams)
        except BadRow as problem:
            if settings.bad_rows == "refuse" and not isinstance(problem, _LeftOut):
                raise CorruptInput(path, where, str(problem)) from problem
            if ledger:
                ledger.reject(name, where, stage, language, problem.reason, str(problem))
            continue
        yield {"id": f"{name}-{number:04}", "language": language, **row, "turn_languages": spoken, "licence": licence}
    if not number:
        raise CorruptInput(path, "", "holds no row")


class _LeftOut(BadRow):
    """A good row that is not wanted; it never refuses the set."""


def file_language(path: Path) -> str:
    """The language that a file's name says; raises CorruptInput when it says none."""
    name = stem(path)
    if name in ENGLISH_SETS:
        return "eng"
    language = language_code(name.partition("-")[0])
    if language not in LANGUAGES:
        names = ", ".join([*LANGUAGES, *ENGLISH_SETS])
        raise CorruptInput(path, "", f"{name!r} names no language; name the file by one of {names}")
    return language


def turn_language(text: str) -> str:
    """The language of one turn, empty when it is too short or too mixed to tell."""
    if not is_tellable(text):
        return ""
    found = identify(text)
    return found.language if found.score >= MIN_SCORE else ""


def is_tellable(text: str) -> bool:
    """Whether a text has letters enough to tell its language."""
    return sum(map(str.isalpha, text[:200])) >= MIN_LETTERS


def _main_language(messages: Messages, spoken: Sequence[str]) -> str:
    """The language of most characters of the answers, else of the rest."""
    for is_answer in (True, False):
        sizes: Counter[str] = Counter()
        for message, language in zip(messages, spoken, strict=True):
            if language and (message["role"] == "assistant") == is_answer:
                sizes[language] += len(message["content"])
        if sizes:
            return max(sorted(sizes), key=lambda language: sizes[language])
    return UNKNOWN


def _licence(row: dict[str, Any], settings: Settings) -> str:
    """The row's licence, else the set's; raises BadRow when it is not allowed."""
    own = row.get(settings.licence_column) if settings.licence_column else None
    licence = own.strip() if isinstance(own, str) and own.strip() else settings.licence
    if settings.licences and licence.casefold() not in {allowed.casefold() for allowed in settings.licences}:
        raise BadRow("licence", f"licence {licence or 'none'!r} is not one of {', '.join(settings.licences)}")
    return licence


def _check_clean(row: dict[str, Any], ngrams: NgramIndex | None) -> None:
    """Raise when a turn, or the whole, holds an evaluation item."""
    if ngrams and (found := ngrams.hits("\n".join(turn["content"] for turn in turns(row)))):
        raise _LeftOut(found.reason, found.detail)


def _digest(row: dict[str, Any]) -> bytes:
    """128 bits of the language and the turns without differences of case, width and spaces."""
    said = [[turn["role"], " ".join(unicodedata.normalize("NFKC", turn["content"]).casefold().split())] for turn in turns(row)]
    return xxhash.xxh3_128_digest(json.dumps([row["language"], *said]).encode())


def _without_duplicates(spool: Path, out: Path, schema: pa.Schema, is_on: bool, ledger: Ledger) -> Counter[str]:
    """Copy the spool without its duplicates; rows per language."""
    languages: Counter[str] = Counter()
    doubles = _duplicates(spool) if is_on else iter(())
    double, place = next(doubles, None), 0
    with (
        pq.ParquetFile(spool, pre_buffer=False, buffer_size=1 << 20) as file,
        pq.ParquetWriter(out, schema, compression="zstd") as writer,
    ):
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, use_threads=False)
            keep = [True] * len(table)
            ids, spoken = table["id"].to_pylist(), table["language"].to_pylist()
            while double and double[0] < place + len(table):
                here = double[0] - place
                keep[here] = False
                name, _, number = ids[here].rpartition("-")
                ledger.reject(name, number, "duplicate", spoken[here], "duplicate", f"of {double[1]}")
                double = next(doubles, None)
            for name, language, is_kept in zip(ids, spoken, keep, strict=True):
                if is_kept:
                    languages[language] += 1
                    ledger.count(name.rpartition("-")[0], "duplicate", "out", language)
            place += len(table)
            if any(keep):
                writer.write_table(table.select(schema.names).filter(pa.array(keep)))
    return languages


def _duplicates(spool: Path) -> Iterator[tuple[int, str]]:
    """Row of the spool, counted from 0, and id of the first equal one, of every duplicate in the order of the rows."""
    spooled = parquet([spool], "file_row_number = true")
    with bounded(MEMORY_LIMIT, spool.parent) as connection:
        found = connection.execute(
            "WITH seen AS (SELECT digest, min(file_row_number) AS first, count(*) AS times "
            f"  FROM {spooled} GROUP BY digest HAVING times > 1), "
            f"rows AS (SELECT digest, id, file_row_number AS place FROM {spooled}) "
            "SELECT rows.place, head.id FROM seen JOIN rows USING (digest) JOIN rows AS head ON head.place = seen.first "
            "WHERE rows.place > seen.first ORDER BY rows.place"
        )
        while rows := found.fetchmany(GROUP_ROWS):
            yield from rows


class Ledger:
    """Counts of all rows by file, stage and reason, and a list of those left out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[tuple[str, str, str, str, str]] = Counter()
        self._rejected = _Writer(folder / REJECTED, REJECTED_SCHEMA)

    def count(self, file: str, stage: str, outcome: str, language: str, reason: str = "") -> None:
        """Count a row: `in` where it is read, `removed` where it is left out, `out` at the end."""
        self.counts[file, stage, outcome, language, reason] += 1

    def reject(self, file: str, place: str, stage: str, language: str, reason: str, detail: str) -> None:
        """Count and list a row that is left out."""
        self.count(file, stage, "removed", language or UNKNOWN, reason)
        self._rejected.add({"file": file, "place": place, "stage": stage, "reason": reason, "detail": detail[:300]})

    def summary(self) -> dict[str, int]:
        """Reasons to the rows left out."""
        reasons: Counter[str] = Counter()
        for (_, _, outcome, _, reason), rows in self.counts.items():
            if outcome == "removed":
                reasons[reason] += rows
        return dict(sorted(reasons.items()))

    def __enter__(self) -> Ledger:
        self._rejected.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._rejected.__exit__(kind, error, trace)
        if error is None:
            order = sorted(self.counts, key=lambda key: (key[0], STAGES.index(key[1]), *key[2:]))
            names = LEDGER_SCHEMA.names
            rows = [dict(zip(names, (*key, self.counts[key]), strict=True)) for key in order]
            pq.write_table(pa.Table.from_pylist(rows, schema=LEDGER_SCHEMA), self.folder / LEDGER, compression="zstd")


class _Writer:
    """Writes rows to a Parquet file, a row group at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema, self._rows, self._characters = schema, list[dict[str, Any]](), 0
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, row: dict[str, Any], characters: int = 0) -> None:
        """Add one row of that many characters."""
        self._rows.append(row)
        self._characters += characters
        if len(self._rows) == GROUP_ROWS or self._characters >= GROUP_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self.schema))
        self._rows.clear()
        self._characters = 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._rows and error is None:
            self._flush()
        self._writer.close()
