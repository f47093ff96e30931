"""Small files of other sources, written for a test and read back."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from sea_lion.data.presets import Preset, preset_of
from sea_lion.data.readers import Row, read_rows

TEXT = "ตลาดเช้าเปิดทุกวัน\nแม่ค้าเอาผักสดมาวางขาย"
ENGLISH = "The morning market opens every day."


def digest(text: str) -> str:
    """The id of a text that has none of its own."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    """Write rows as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def jsonl(path: Path, rows: Iterable[Any]) -> Path:
    """Write rows as JSON Lines, compressed as the name says."""
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    packs: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress}
    path.write_bytes(packs.get(path.suffix, bytes)(content))
    return path


def rows_of(preset: str | Preset, path: Path | str) -> list[Row]:
    """All rows that a preset reads of a file."""
    return list(read_rows(preset_of(preset) if isinstance(preset, str) else preset, path))


def fineweb(**changes: Any) -> dict[str, Any]:
    """A row of FineWeb."""
    return {
        "text": ENGLISH, "id": "<urn:uuid:1>", "dump": "CC-MAIN-2024-18", "url": "https://example.com/a",
        "date": "2024-04-12T10:00:00Z", "file_path": "s3://x", "language": "en", "language_score": 0.97, "token_count": 8,
    } | changes  # fmt: skip
