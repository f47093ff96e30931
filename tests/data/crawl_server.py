"""A small crawl with its columnar index, and a mirror of it on 127.0.0.1 that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from sea_lion.data.columnar import write_index

CLD2 = ("tha", "eng", "deu", "lao", "fra", "spa", "msa", "jpn", "ita", "pol", "tgl", "por")
NAME = "crawl-data/CC-MAIN-2024-18/segments/1712/warc/CC-MAIN-20240412-{:05}.warc.gz"
Fault = Callable[[str, int, int], str]
"""File, first byte and how often that has been asked for before, to the fault (empty: none)."""


def make_crawl(root: Path, files: int = 3, captures: int = 24, kilobytes: int = 35, thai: float = 0.0) -> Path:
    """WARC files of `captures` pages, each about so large when compressed, below `root`; gives the index of them.

    The pages' languages are those of `CLD2` in turn, or at random Thai (this share) and English.
    """
    chance = random.Random(0)
    paths = [root / NAME.format(number) for number in range(files)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            writer = WARCWriter(file, gzip=True)
            writer.write_record(writer.create_warcinfo_record(path.name, {"isPartOf": "CC-MAIN-2024-18"}))
            for page in range(captures):
                url = f"https://host{number}.example/{chance.choice(['page', 'ไทย', 'a,b'])}/{page}"
                size = int(kilobytes * 900 * chance.uniform(0.5, 1.5))
                body = b"<html><body>" + chance.randbytes(size).hex().encode() + b"</body></html>"
                language = ("tha" if chance.random() < thai else "eng") if thai else CLD2[page % len(CLD2)]
                _capture(writer, url, body, "404 Not Found" if page % 12 == 11 else "200 OK", language)
    index = root / "index.parquet"
    write_index(paths, root, index, crawl="CC-MAIN-2024-18")
    return index


def _capture(writer: Any, url: str, body: bytes, status: str, language: str) -> None:
    """The records of one page: request, response, metadata."""
    date = {"WARC-Date": "2024-04-12T10:00:00Z"}
    asked = StatusAndHeaders("GET / HTTP/1.1", [("Host", "host.example")], is_http_request=True)
    writer.write_record(writer.create_warc_record(url, "request", http_headers=asked, warc_headers_dict=date))
    head = StatusAndHeaders(status, [("Content-Type", "text/html")], protocol="HTTP/1.1")
    record = writer.create_warc_record(url, "response", BytesIO(body), http_headers=head, warc_headers_dict=date)
    writer.write_record(record)
    languages = [
        {"code": "xx", "code-iso-639-3": code, "text-covered": share} for code, share in ((language, 0.9), ("eng", 0.1))
    ]
    noted = json.dumps({"reliable": True, "text-bytes": 900, "languages": languages})
    about = date | {"WARC-Concurrent-To": record.rec_headers.get_header("WARC-Record-ID")}
    block = f"charset-detected: UTF-8\r\nlanguages-cld2: {noted}\r\n".encode()
    note = writer.create_warc_record(
        url, "metadata", BytesIO(block), warc_content_type="application/warc-fields", warc_headers_dict=about
    )
    writer.write_record(note)


class MirrorServer(ThreadingHTTPServer):
    """Serves the files below a folder by ranges."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.fault: Fault = lambda file, start, nth: ""
        self.retry_after = "0"
        """What a 503 says."""
        self.delay = 0.0
        """Seconds before an answer."""
        self.asked: list[tuple[str, int, int, float]] = []
        """File, first byte, last byte and time of each request."""
        self.sent = 0
        """Bytes of bodies written."""
        self.at_once = self.most_at_once = 0
        """Requests being answered, now and at most."""
        self.counts: Counter[tuple[str, int]] = Counter()
        self.lock = threading.Lock()
        self.closing = threading.Event()

    @property
    def address(self) -> str:
        """The mirror's address."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error."""


@contextmanager
def mirror_of(root: Path) -> Iterator[MirrorServer]:
    """A mirror of a folder while the context lasts."""
    server = MirrorServer(root)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def random_faults(share: float, seed: int) -> Fault:
    """Faults at random, of every kind that may pass; the same for the same seed, whatever order the requests come in."""
    kinds = ("truncate", "close", "drop", "503", "500", "403", "whole", "elsewhere", "corrupt", "no_content_range", "more")

    def fault(file: str, start: int, nth: int) -> str:
        chance = random.Random(f"{seed} {file} {start} {nth}")
        return chance.choice(kinds) if chance.random() < share else ""

    return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: MirrorServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._head(200, (self.server.root / self.path.lstrip("/")).stat().st_size, None)

    def do_GET(self) -> None:
        server = self.server
        file = self.path.lstrip("/")
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, last = (int(asked[1]), int(asked[2])) if asked else (0, -1)
        with server.lock:
            nth = server.counts[file, start]
            server.counts[file, start] += 1
            server.asked.append((file, start, last, time.monotonic()))
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            server.closing.wait(server.delay)
            with contextlib.suppress(OSError):
                self._answer(server.root / file, start, last, server.fault(file, start, nth))
        finally:
            with server.lock:
                server.at_once -= 1

    def _answer(self, path: Path, start: int, last: int, fault: str) -> None:
        if fault == "drop":
            self.close_connection = True
            return
        if fault.isdigit() or not path.is_file():
            extra = {"Retry-After": self.server.retry_after} if fault in ("429", "503") else {}
            self._head(int(fault or 404), 0, None, **extra)
            return
        size = path.stat().st_size
        if fault == "whole" or last < 0:
            self._head(200, size, None)
            self._send(path.read_bytes())
            return
        with path.open("rb") as file:
            file.seek(start)
            body = bytearray(file.read(last + 1 - start))
        if not body:
            self._head(416, 0, f"bytes */{size}")
            return
        if fault == "corrupt":
            body[len(body) // 2] ^= 0x40
        span = f"bytes {start + (fault == 'elsewhere')}-{start + len(body) - 1}/{size}"
        sent = body[: len(body) // 2] if fault in ("truncate", "close", "stall") else body + b"more" * (fault == "more")
        length = len(sent) if fault in ("truncate", "more") else len(body)
        self._head(206, length, "" if fault == "no_content_range" else span)
        self._send(bytes(sent))
        if fault == "stall":
            self.server.closing.wait(5)
        self.close_connection = fault in ("close", "stall")

    def _head(self, status: int, length: int, span: str | None, **extra: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if span:
            self.send_header("Content-Range", span)
        for name, value in extra.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, body: bytes) -> None:
        for at in range(0, len(body), 1 << 14):
            self.wfile.write(body[at : at + (1 << 14)])
            with self.server.lock:
                self.server.sent += len(body[at : at + (1 << 14)])
