"""Extraction in a process of its own, so that no page can hang, kill or bloat a worker.

A page may keep a parser busy for hours inside C code, where neither a signal handler nor a thread gets a turn; only the end of
its process helps. The process is started afresh and not forked, as workers of Ray and of datatrove hold threads and locks. Its
time limit is CPU time for each page, kept by the kernel: limits in wall time, as datatrove's, remove more pages on a busier
machine. A pool of such processes would be faster still on idle cores, but there are as many workers as cores.

Both ends talk through a pair of sockets, the child's standard input: a page goes out as the length and bytes of its UTF-8, its
text comes back behind the fault, as numbered in FAULTS, and whether the child ends now.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from .extract import EXTRACTORS, MAX_HTML_CHARACTERS, TooComplex, article

CPU_SECONDS = 10.0
"""For one page; the slowest real page takes 0.6, the slowest that passes the checks of `extract` about 3."""
WALL_SECONDS = 120.0
"""For one page, should the process be stopped or starved; never reached in ordinary work."""
MEMORY_BYTES = 1 << 30
"""Address space of the process: it starts with 0.07 GB, and real pages take it to 0.2."""
RECYCLE_BYTES = 400 << 20
"""Resident memory above which the process is replaced after a page."""

FAULTS = ("", "too_complex", "timeout", "out_of_memory", "extraction_crash", "extraction_error", "no_article")
"""Why a page has no text; a crash is any death of the process that is not of its limits."""

_REQUEST, _REPLY = struct.Struct("<Q"), struct.Struct("<B?Q")


class Sandbox:
    """A process that finds articles, started when the first page comes and again after each death. A context manager."""

    def __init__(
        self,
        mode: str = "trafilatura",
        *,
        cpu_seconds: float = CPU_SECONDS,
        wall_seconds: float = WALL_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
        recycle_bytes: int = RECYCLE_BYTES,
    ) -> None:
        if mode not in EXTRACTORS:
            raise ValueError(f"mode {mode!r} is none of {', '.join(EXTRACTORS)}")
        self.wall_seconds = wall_seconds
        self._arguments = [mode, str(cpu_seconds), str(memory_bytes), str(recycle_bytes)]
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the process, where one runs."""
        return self._process.pid if self._process else None

    def article(self, html: str) -> tuple[str, str]:
        """The text of a page as `extract.article` finds it, or nothing and one of FAULTS.

        Raises RuntimeError when the process cannot be started.
        """
        if len(html) > MAX_HTML_CHARACTERS:
            return "", "too_complex"
        if self._process and self._process.poll() is not None:
            self.close()  # it was killed while it waited; no page pays for that
        connection = self._socket or self._start()
        try:
            page = html.encode("utf-8", "replace")
            connection.sendall(_REQUEST.pack(len(page)) + page)
            number, is_last, length = _REPLY.unpack(_received(connection, _REPLY.size))
            text = _received(connection, length).decode()
        except OSError as error:
            return "", self._cause(error)
        except BaseException:  # an interrupt; the answer to this page must not be taken for that to the next
            self.close()
            raise
        if is_last:
            self.close()
        return text, FAULTS[number]

    def close(self) -> None:
        """End the process; the next page starts another."""
        if self._process and self._socket:
            self._socket.close()
            self._process.kill()
            self._process.wait()
        self._process = self._socket = None

    def _start(self) -> socket.socket:
        here, there = socket.socketpair()
        # the interpreter's own path, wherever the caller found the package; -P keeps the current folder out of it
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-P", "-m", __spec__.name if __spec__ else "sea_lion.data.sandbox", *self._arguments]
        with there:
            self._process = subprocess.Popen(command, stdin=there.fileno(), stdout=subprocess.DEVNULL, env=environment)
        self._socket = here
        try:
            here.settimeout(WALL_SECONDS)
            _received(here, 1)
            here.settimeout(self.wall_seconds)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise RuntimeError(f"the extraction process did not start: {' '.join(command)}") from error
            raise
        return here

    def _cause(self, error: OSError) -> str:
        """Why the process no longer answers."""
        assert self._process is not None
        if isinstance(error, TimeoutError):
            self.close()
            return "timeout"
        code = self._process.wait()
        self.close()
        return "timeout" if code == -signal.SIGPROF else "extraction_crash"


def _received(connection: socket.socket, size: int) -> bytes:
    """So many bytes; raises ConnectionResetError when the other end is gone."""
    parts, missing = [], size
    while missing:
        part = connection.recv(min(missing, 1 << 20))
        if not part:
            raise ConnectionResetError("the other end is gone")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def serve(mode: str, cpu_seconds: float, memory_bytes: int, recycle_bytes: int) -> None:
    """The process: answers pages until the parent is gone, or this process has grown too large."""
    connection = socket.socket(fileno=os.dup(0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process, also inside C code
    _answer(mode, "<html><body><p>A page, so that everything is loaded.</p></body></html>")
    gc.freeze()
    parent, is_last = os.getppid(), False
    connection.sendall(b"!")
    # a parser's complaints are of no use here; faults are counted
    os.dup2(os.open(os.devnull, os.O_RDWR), 2)
    while not is_last and _is_waiting(connection, parent):
        (length,) = _REQUEST.unpack(_received(connection, _REQUEST.size))
        html = _received(connection, length).decode()
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        text, fault = _answer(mode, html)
        signal.setitimer(signal.ITIMER_PROF, 0)
        is_last = fault == "out_of_memory" or _resident_bytes() > recycle_bytes
        connection.sendall(_REPLY.pack(FAULTS.index(fault), is_last, len(text)) + text)


def _answer(mode: str, html: str) -> tuple[bytes, str]:
    try:
        text = article(html, mode).encode()
    except TooComplex:
        return b"", "too_complex"
    except MemoryError:
        return b"", "out_of_memory"
    except Exception:  # whatever a page makes the parsers raise
        return b"", "extraction_error"
    return text, "" if text else "no_article"


def _is_waiting(connection: socket.socket, parent: int) -> bool:
    """True when a page waits; False when the parent is gone, though a process that it forked may hold its end open."""
    while not select.select([connection], [], [], 5)[0]:
        if os.getppid() != parent:
            return False
    return bool(connection.recv(1, socket.MSG_PEEK))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    with suppress(ConnectionError):
        serve(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
