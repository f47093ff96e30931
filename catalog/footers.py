"""What the footers of Parquet files say, read by a process that may die of them.

A damaged or hostile footer can take all memory, or the process (see the facts); so another process reads them, under limits,
and the file that it dies of is named. Refused: to read them here, and to trust a file because its name ends in `.parquet`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

MEMORY, SECONDS = 3 << 30, 60
"""Limits of the process: address space, and processor time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """What one file says of itself."""

    path: str
    """As it was given."""
    rows: int = 0
    """Rows."""
    decoded: int = 0
    """Bytes of its columns when decompressed."""
    problem: str = ""
    """Why it could not be read."""


def footers(root: Path, paths: Sequence[str]) -> Iterator[Footer]:
    """The footers of files below a folder, in their order."""
    left = list(paths)
    while left:
        command = [sys.executable, "-P", "-m", __name__, str(root)]
        done = subprocess.run(command, input=json.dumps(left), capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.endswith("}")]
        yield from (Footer(**json.loads(line)) for line in lines)
        left = left[len(lines) :]
        if left:
            yield Footer(path=left[0], problem=f"ended the process that read its footer (exit code {done.returncode})")
            left = left[1:]


def _main(root: str) -> None:
    paths = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    for path in paths:
        found = {"path": path}
        try:
            metadata = pq.read_metadata(Path(root) / path)
            found["rows"] = metadata.num_rows
            found["decoded"] = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
            found["problem"] = (str(error) or type(error).__name__).splitlines()[0]
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1])
