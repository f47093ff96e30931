"""Data sets of the Hugging Face hub by name, or in a local folder that holds a copy of one, through `datasets`.

Streaming: nothing is copied to the disk first. `datasets` decides which files make up a subset and a split, and decodes them;
it takes a Parquet row group as one piece, and ends at the first row that cannot be decoded. Where the files are at hand, the
forms `parquet` and `jsonl` are the better way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from ..catalog.errors import CorruptInput, SeaLionError
from .presets import Preset


def hub_rows(preset: Preset, folder: str = "") -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Number and values of every row of a preset's data set, or of the one in a local folder.

    Raises SeaLionError when the hub cannot be reached, CorruptInput for anything else that `datasets` cannot read.
    """
    from datasets import load_dataset

    name, position = folder or preset.hub, 0
    revision = preset.revision or None if not folder else None
    try:
        rows = load_dataset(name, preset.config or None, split=preset.split, streaming=True, revision=revision)
        for position, record in enumerate(rows, 1):
            yield position, dict(record)
    except Exception as error:  # the hub, its file systems and every builder have errors of their own
        raise _unread(name, folder, position, error) from error


def _unread(name: str, folder: str, position: int, error: Exception) -> SeaLionError:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cast(Exception, cause))
    is_offline = any(isinstance(each, ConnectionError) or "Offline" in type(each).__name__ for each in chain)
    if is_offline and not folder:
        return SeaLionError(
            f"{name}: the hub cannot be reached; give a local folder, or set HF_HUB_OFFLINE=0 where there is a network"
        )
    where = f"row {position + 1} or later" if position else ""
    return CorruptInput(
        name, where, f"cannot be read through datasets: {' '.join(str(error).split())[:300] or type(error).__name__}"
    )
