"""Where the figures of a run go while it runs: JSON lines, and TensorBoard if wished.

JSON lines are always written: any tool reads them, and what was written before a kill stays. TensorBoard's files are written by
torch's own writer, which needs neither an account nor a service.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..catalog.errors import MissingDependency

JSON_LINES = "log.jsonl"
TENSORBOARD = "tensorboard"


class Sinks:
    """The files that one process writes; what an earlier attempt wrote after step `done` is taken back."""

    def __init__(self, folder: Path, done: int, *, has_tensorboard: bool) -> None:
        """Raises MissingDependency where TensorBoard is wished for and not installed."""
        folder.mkdir(parents=True, exist_ok=True)
        self._board = _board(folder / TENSORBOARD, done) if has_tensorboard else None
        path = folder / JSON_LINES
        _take_back(path, done)
        self._lines = path.open("a", encoding="utf-8")

    def write(self, figures: dict[str, Any], losses: Sequence[dict[str, Any]]) -> None:
        """Write the figures of an interval, and the losses of the parts where an interval of theirs ended."""
        names = ("step", "part", "corpus", "language", "source", "tokens", "loss", "bits_per_byte")
        shown = [{name: _known(row[name]) for name in names} for row in losses]
        line = {name: _known(value) for name, value in figures.items()} | ({"parts": shown} if shown else {})
        self._lines.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._lines.flush()
        if self._board is None:
            return
        for name, value in figures.items():
            if value is not None and name != "step":
                self._board.add_scalar(name, value, figures["step"])
        for row in losses:
            place = "/".join(word for word in (row["part"], row["corpus"], row["language"], row["source"]) if word)
            for name in ("loss", "bits_per_byte"):
                if row[name] is not None:
                    self._board.add_scalar(f"{name}/{place}", row[name], row["step"])

    def close(self) -> None:
        """Close the files."""
        self._lines.close()
        if self._board is not None:
            self._board.close()


def _board(folder: Path, done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependency("tensorboard", "to write the log for TensorBoard (--set tensorboard=true)") from error
    writer: Any = SummaryWriter
    return writer(str(folder), purge_step=done + 1)


def _take_back(path: Path, done: int) -> None:
    """Delete the lines after step `done`, and one that is cut short."""
    if not path.exists():
        return
    partial = path.with_suffix(".partial")
    with path.open(encoding="utf-8", errors="replace") as lines, partial.open("w", encoding="utf-8") as kept:
        for line in lines:
            try:
                is_kept = json.loads(line)["step"] <= done
            except (ValueError, KeyError, TypeError):
                continue
            if is_kept:
                kept.write(line)
    partial.replace(path)


def _known(value: Any) -> Any:
    """JSON has no word for what is no number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
