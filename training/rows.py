"""Conversations as rows of tokens on disk: rendered once by a chat template, then read where they lie.

A set of ten million conversations opens at once and in no memory: tokens, ends and counts are files that are mapped, not read.
To render while training, or to hold the rows as Python lists, was refused: a list takes 36 bytes a token, and what is dropped
would be known only at the end of the run.

The work is divided by the row groups of the conversations' file (`rounds`): a killed run goes on where it was. A row is a
conversation; of a preference pair the rows are two, chosen and then rejected.
"""

from __future__ import annotations

import errno
import json
import logging
import mmap
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..catalog.errors import CorruptInput, SeaLionError, Unfinished
from ..catalog.fingerprint import fingerprint
from ..catalog.languages import UNKNOWN
from ..catalog.store import Options, write_atomically
from ..data.executors import executor
from ..data.rounds import run_round
from .rendering import IN_LOSS, Form, Messages, Renderer, Rendering, conversations_of

if TYPE_CHECKING:
    from .processes import Processes  # not in the workers: torch takes seconds to import

log = logging.getLogger(__name__)

TOKENS, ENDS, TRAINED, LANGUAGES, MARKER = "rows.tokens", "rows.ends", "rows.trained", "rows.languages", "rows.json"
KINDS: dict[str, np.dtype[Any]] = {
    TOKENS: np.dtype("<u4"),
    ENDS: np.dtype("<u8"),
    TRAINED: np.dtype("<u4"),
    LANGUAGES: np.dtype("<u2"),
}
"""Token ids with `IN_LOSS`; end of each row in tokens; its tokens in the loss; number of its language."""
FORM = 1
"""Raised when the same conversations would become other rows, so that those of an older version are not used."""
BATCH = 256
"""Conversations or pairs in memory at once."""
FEW_ROWS = 2000
"""Rendered in this process: it takes less time than worker processes take to start."""
ASKING = 60.0
"""Seconds between two times that processes say they still work."""

COLUMNS: dict[Form, list[str]] = {"messages": ["messages"], "preference": ["prompt", "chosen", "rejected"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rendered rows, mapped from their files."""

    digest: str
    """Of all that they depend on."""
    form: Form
    languages: tuple[str, ...]
    """What `language` numbers, ISO 639-3."""
    dropped: dict[str, int]
    """Reason to the conversations or pairs that are left out."""
    tokens: npt.NDArray[np.uint32]
    """All rows end to end; `IN_LOSS` is set where the loss falls on the token."""
    ends: npt.NDArray[np.uint64]
    """End of each row in tokens."""
    trained: npt.NDArray[np.uint32]
    """Tokens of each row in the loss."""
    language: npt.NDArray[np.uint16]
    """Number of each row's language."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ends)

    def sizes(self) -> npt.NDArray[np.uint32]:
        """Tokens of each row."""
        sizes = np.empty(len(self.ends), np.uint32)
        sizes[:1] = self.ends[:1]
        np.subtract(self.ends[1:], self.ends[:-1], out=sizes[1:], casting="unsafe")
        return sizes

    def row(self, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Token ids of a row, and on which of them the loss falls; never on the first, which nothing predicts."""
        marked = self.tokens[int(self.ends[number - 1]) if number else 0 : int(self.ends[number])]
        return (marked & ~IN_LOSS).astype(np.int64), marked >= IN_LOSS


def write_rows_files(
    source: Path, origin: str, rendering: Rendering, folder: Path, options: Options, processes: Processes
) -> Rows:
    """The rows of a Parquet file of conversations of fingerprint `origin`, rendered into `folder` unless they are there.

    Rank 0 renders, in `options.workers` processes, the others wait. Raises CorruptInput for a file that cannot be read and when
    no row is left, Unfinished when the disk is full; every process raises.
    """
    digest = fingerprint([
        FORM, origin, rendering.form, rendering.template, rendering.tokenizer_sha256, rendering.longest
    ])  # fmt: skip

    def write() -> None:
        if _is_whole(folder, digest):
            return
        try:
            _write(source, digest, rendering, folder, options)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise Unfinished(f"{folder}: no space left on the device; free some, then run the same command again") from error

    first_alone(processes, write)
    if not _is_whole(folder, digest):
        raise Unfinished(f"{folder}: another process wrote the rows, but they are not here; the folder must be a shared one")
    return open_rows(folder)


def open_rows(folder: Path) -> Rows:
    """Map the rows that are complete in a folder."""
    marker = json.loads((folder / MARKER).read_text("utf-8"))
    mapped = {name: _mapped(folder / name, kind) for name, kind in KINDS.items()}
    return Rows(
        digest=marker["digest"], form=marker["form"], languages=tuple(marker["languages"]), dropped=marker["dropped"],
        tokens=mapped[TOKENS], ends=mapped[ENDS], trained=mapped[TRAINED], language=mapped[LANGUAGES],
    )  # fmt: skip


def _mapped(path: Path, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """A file as an array; of a row only its own pages are read, since the next row lies elsewhere."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, kind)


def write_marker(folder: Path, digest: str, form: Form, languages: Sequence[str], dropped: dict[str, int]) -> None:
    """Say that the files of a folder are complete; after this they are rows."""
    sizes = {name: (folder / name).stat().st_size for name in KINDS}
    said = {"digest": digest, "form": form, "languages": list(languages), "dropped": dropped, "sizes": sizes}
    write_atomically(folder / MARKER, json.dumps(said, indent=1))


def first_alone(processes: Processes, work: Callable[[], None]) -> None:
    """Have rank 0 do something, however long it takes, while the others wait; what it raises is raised by all.

    A barrier would give up after its timeout; here the processes tell each other every minute that they are still there.
    """
    if processes.world == 1:
        return work()
    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(copy_context().run, work) if processes.rank == 0 else None
        while True:
            if task:
                wait([task], timeout=ASKING)
            is_done = task is not None and task.done()
            error = task.exception() if task and is_done else None
            said = error if error is None or isinstance(error, SeaLionError) else RuntimeError(f"process 0 failed: {error}")
            is_done, problem = cast(tuple[bool, Exception | None], processes.gathered((is_done, said))[0])
            if error:
                raise error
            if problem:
                raise problem
            if is_done:
                return


def _is_whole(folder: Path, digest: str) -> bool:
    try:
        marker = json.loads((folder / MARKER).read_text("utf-8"))
        return marker["digest"] == digest and all(
            (folder / name).stat().st_size == size for name, size in marker["sizes"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


# -- rendering -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One row group of the conversations' file: a unit of `rounds`."""

    key: str
    """Digest of all that its rows depend on."""
    path: Path
    """The file."""
    number: int
    """From 0."""

    @property
    def label(self) -> str:
        """The file and the group."""
        return f"{self.path}, row group {self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderGroup:
    """Renders one row group into a folder; it crosses to worker processes."""

    rendering: Rendering

    def __call__(self, unit: Group, folder: Path) -> None:
        """Write the four files of the group's rows, and what there is to know of them."""
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
        renderer = _renderer(self.rendering)
        languages: dict[str, int] = {}
        dropped: Counter[str] = Counter()
        files = {name: (folder / name).open("wb") for name in KINDS}
        end = 0
        try:
            for spoken, examples in _examples(unit, self.rendering.form):
                sizes, trained, numbers = list[int](), list[int](), list[int]()
                for language, rows in zip(spoken, renderer.rendered(examples), strict=True):
                    if isinstance(rows, str):
                        dropped[rows] += 1
                        continue
                    for row in rows:
                        row.tofile(files[TOKENS])
                        sizes.append(len(row))
                        trained.append(int((row >= IN_LOSS).sum()))
                        numbers.append(languages.setdefault(language, len(languages)))
                ends = end + np.cumsum(sizes, dtype="<u8")
                end = int(ends[-1]) if sizes else end
                for name, values in ((ENDS, ends), (TRAINED, trained), (LANGUAGES, numbers)):
                    np.asarray(values, KINDS[name]).tofile(files[name])
        finally:
            for file in files.values():
                file.close()
        (folder / MARKER).write_text(json.dumps({"languages": list(languages), "dropped": dropped}))


@cache
def _renderer(rendering: Rendering) -> Renderer:
    """Once in a worker: a large vocabulary takes seconds."""
    from transformers import AutoTokenizer

    load: Any = AutoTokenizer.from_pretrained
    return Renderer(load(rendering.model_folder), rendering.template, rendering.longest)


def _examples(unit: Group, form: Form) -> Iterator[tuple[list[str], list[list[Messages]]]]:
    """Languages and conversations of the rows of a group, a few at a time; two conversations of a pair."""
    try:
        with pq.ParquetFile(unit.path, pre_buffer=False) as file:
            columns = ["language", *COLUMNS[form]]
            for batch in file.iter_batches(BATCH, row_groups=[unit.number], columns=columns, use_threads=False):
                records = batch.to_pylist()
                yield (
                    [record["language"] or UNKNOWN for record in records],
                    [conversations_of(record, form) for record in records],
                )
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise CorruptInput(unit.label, "", f"has not the columns language, {', '.join(COLUMNS[form])}: {problem}") from error


# -- writing -------------------------------------------------------------------------------------------------------------------


def _write(source: Path, digest: str, rendering: Rendering, folder: Path, options: Options) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).unlink(missing_ok=True)
    try:
        with pq.ParquetFile(source) as file:
            groups, rows = file.num_row_groups, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise CorruptInput(source, "", f"cannot be read as Parquet: {error}") from error
    units = [Group(key=fingerprint([digest, number])[:32], path=source, number=number) for number in range(groups)]
    here = replace(options, executor="local", executor_settings={}, workers=1 if rows <= FEW_ROWS else options.workers)
    made = folder / "groups"
    run_round(
        "conversations", RenderGroup(rendering=rendering), units, made, executor(here, folder / "logs"),
        shows_progress=options.show_progress,
    )  # fmt: skip
    languages, dropped = _joined(made, units, folder)
    said = dict(sorted(dropped.items()))
    if not (folder / ENDS).stat().st_size:
        raise CorruptInput(source, "", f"no row can be trained on; dropped: {said}")
    write_marker(folder, digest, rendering.form, languages, said)
    shutil.rmtree(made)


def _joined(made: Path, units: Sequence[Group], folder: Path) -> tuple[list[str], Counter[str]]:
    """Lay the groups' files end to end; the languages in the order of their numbers, and the counts of what was dropped."""
    languages: dict[str, int] = {}
    dropped: Counter[str] = Counter()
    files = {name: (folder / name).open("wb") for name in KINDS}
    tokens = 0
    try:
        for unit in units:
            part = made / unit.key
            said = json.loads((part / MARKER).read_text("utf-8"))
            dropped.update(said["dropped"])
            for name in (TOKENS, TRAINED):
                with (part / name).open("rb") as old:
                    shutil.copyfileobj(old, files[name], 1 << 20)
            ends = np.fromfile(part / ENDS, KINDS[ENDS])
            (ends + np.uint64(tokens)).tofile(files[ENDS])
            tokens += int(ends[-1]) if len(ends) else 0
            numbers = [languages.setdefault(language, len(languages)) for language in said["languages"]]
            np.array(numbers, KINDS[LANGUAGES])[np.fromfile(part / LANGUAGES, KINDS[LANGUAGES])].tofile(files[LANGUAGES])
    finally:
        for file in files.values():
            file.close()
    return list(languages), dropped
