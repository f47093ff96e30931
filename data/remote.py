"""Byte ranges of files on a mirror: over http(s), or from S3 and local folders through fsspec.

A mirror that answers another question than was asked (the whole file, another range, fewer bytes) must cost no more than a
retry: every answer is checked before its body is read, and no body is read beyond what was asked for. fsspec's own http was
refused for this: it takes what it gets, and knows neither a shared rate nor Retry-After.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp
import fsspec
from yarl import URL

from ..catalog.errors import CorruptInput, MissingDependency, SeaLionError

SMALL_SKIP = 64 << 10
"""Bytes before the wanted ones that are read and thrown away when a server sends the whole file."""
PASSING = frozenset({408, 425, 429})
"""Statuses below 500 after which the same request may succeed."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(?:\d+|\*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How a mirror is asked: the defaults suit Common Crawl's public one."""

    concurrency: int = 16
    """Requests at a time."""
    requests_per_second: float = 50.0
    """Of this process, retries included; several processes share a mirror's patience by dividing it. Not for local folders."""
    connect_timeout: float = 10.0
    """Seconds to connect."""
    stall_timeout: float = 30.0
    """Seconds without a byte."""
    request_timeout: float = 300.0
    """Seconds for one request, so that one byte now and then does not keep it alive."""
    tries: int = 6
    """Requests for one range, where a failure may pass: no connection, 429, 5xx, a short or wrong answer."""
    refused_tries: int = 2
    """Requests for one range that the mirror refuses (403, 404, other 4xx)."""
    backoff: float = 1.0
    """Mean seconds before the second try; doubled for each further one, and drawn at random."""
    max_wait: float = 120.0
    """Longest wait before a try, whatever Retry-After says."""
    give_up_after: int = 200
    """Ranges in a row that fail in all their tries: then the mirror is down, or the wrong one."""
    user_agent: str = "sea-lion-platform"
    """Add an address to write to, so that a mirror's keeper can."""

    def __post_init__(self) -> None:
        counts = (self.concurrency, self.tries, self.refused_tries, self.give_up_after)
        seconds = (self.requests_per_second, self.connect_timeout, self.stall_timeout, self.request_timeout)
        if min(counts) < 1 or min(seconds) <= 0 or min(self.backoff, self.max_wait) < 0:
            raise ValueError("counts must be at least 1, rates and timeouts above 0, waits not negative")


class Trouble(Exception):
    """A request that did not give what was asked for."""

    def __init__(self, reason: str, *, is_refused: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.is_refused, self.wait = reason, is_refused, wait


class Mirror(Protocol):
    """Somewhere that files of a crawl can be read."""

    async def read(self, name: str, start: int, stop: int, tally: Counter[str]) -> bytes:
        """The bytes of a file from `start` up to `stop`, or to its end; raises Trouble.

        Adds to `tally`: `requests`, `bytes` (received, used or not), `range_ignored`.
        """
        ...


class _Turns:
    """Gives each request its time: so many a second, and none before a moment that the mirror has named."""

    def __init__(self, per_second: float) -> None:
        self._interval, self._next, self._lock = 1 / per_second, 0.0, asyncio.Lock()

    async def mine(self) -> None:
        """Wait for it."""
        now = asyncio.get_running_loop().time
        async with self._lock:
            while (wait := self._next - now()) > 0:
                await asyncio.sleep(wait)
            self._next = max(self._next, now()) + self._interval

    def pause(self, seconds: float) -> None:
        """Nobody's turn comes sooner than in so many seconds."""
        self._next = max(self._next, asyncio.get_running_loop().time() + seconds)


@asynccontextmanager
async def open_mirror(address: str, manners: Manners) -> AsyncIterator[Mirror]:
    """The mirror at an http(s) or other fsspec address, or in a local folder."""
    try:
        is_http = URL(address).scheme in ("http", "https")
        filesystem, root = (None, address) if is_http else fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise MissingDependency("the fsspec backend", f"to read from {address}") from error
    except ValueError as error:
        raise SeaLionError(f"{address}: no mirror: {error}; give an http(s) or s3 address, or a folder") from error
    if filesystem is None:
        async with _session(manners) as session:
            yield _Http(address, manners, session)
        return
    is_local = "file" in filesystem.protocol
    if is_local and not Path(root).is_dir():
        raise CorruptInput(address, "", "no such folder")
    pool = ThreadPoolExecutor(manners.concurrency, "mirror")
    try:
        yield _Files(filesystem, root, manners, pool, None if is_local else _Turns(manners.requests_per_second))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a read that has stalled is not waited for


def _session(manners: Manners) -> aiohttp.ClientSession:
    """One pool of connections; bodies come as they are stored, and proxies from the environment are used."""
    timeout = aiohttp.ClientTimeout(
        total=manners.request_timeout, sock_connect=manners.connect_timeout, sock_read=manners.stall_timeout
    )
    headers = {"User-Agent": manners.user_agent, "Accept-Encoding": "identity"}
    connector = aiohttp.TCPConnector(limit=manners.concurrency, ttl_dns_cache=300)
    return aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers, auto_decompress=False, trust_env=True)


class _Http:
    def __init__(self, address: str, manners: Manners, session: aiohttp.ClientSession) -> None:
        self._base, self._session, self._max_wait = address.rstrip("/"), session, manners.max_wait
        self._gate, self._turns = asyncio.Semaphore(manners.concurrency), _Turns(manners.requests_per_second)

    async def read(self, name: str, start: int, stop: int, tally: Counter[str]) -> bytes:
        url = URL(f"{self._base}/{quote(name)}", encoded=True)
        async with self._gate:
            await self._turns.mine()
            tally["requests"] += 1
            try:
                async with self._session.get(url, headers={"Range": f"bytes={start}-{stop - 1}"}, max_redirects=3) as answer:
                    begin, end = self._offered(answer, start, stop, tally)
                    return await _body(answer, start - begin, end - begin, tally)
            except TimeoutError as error:
                raise Trouble("timeout") from error
            except aiohttp.ClientPayloadError as error:
                raise Trouble("short_body") from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise Trouble("connection") from error

    def _offered(self, answer: aiohttp.ClientResponse, start: int, stop: int, tally: Counter[str]) -> tuple[int, int]:
        """Where in the file the body begins, and where to stop reading it; raises Trouble when that is of no use."""
        if answer.status == 200:
            tally["range_ignored"] += 1
            end = min(stop, stop if answer.content_length is None else answer.content_length)
            if start <= SMALL_SKIP and start < end:
                return 0, end
            raise Trouble("range_ignored")
        if answer.status == 206:
            found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
            if found is None or int(found[1]) != start or not start < int(found[2]) + 1 <= stop:
                raise Trouble("wrong_range")
            return start, int(found[2]) + 1
        is_refused = answer.status < 500 and answer.status not in PASSING
        wait = 0.0 if is_refused else min(_retry_after(answer.headers.get("Retry-After", "")), self._max_wait)
        self._turns.pause(wait)
        raise Trouble(f"status_{answer.status}", is_refused=is_refused, wait=wait)


async def _body(answer: aiohttp.ClientResponse, skip: int, end: int, tally: Counter[str]) -> bytes:
    """Bytes `skip` to `end` of the body; no more than a buffer beyond is read."""
    data, position = bytearray(), 0
    async for chunk in answer.content.iter_any():
        tally["bytes"] += len(chunk)
        data += chunk[max(0, skip - position) :]
        position += len(chunk)
        if position >= end:
            break
    if position < end:
        raise Trouble("short_body")
    return bytes(data[: end - skip])


def _retry_after(text: str) -> float:
    """Seconds from now, of a number or a date; 0 when it is neither."""
    with contextlib.suppress(ValueError, OverflowError, TypeError):
        return max(0.0, float(int(text)) if text.strip().isdigit() else (parsedate_to_datetime(text) - _now()).total_seconds())
    return 0.0


def _now() -> datetime:
    return datetime.now(UTC)


class _Files:
    def __init__(self, filesystem: Any, root: str, manners: Manners, pool: ThreadPoolExecutor, turns: _Turns | None) -> None:
        self._filesystem, self._root, self._pool, self._turns = filesystem, root.rstrip("/"), pool, turns
        self._gate, self._timeout = asyncio.Semaphore(manners.concurrency), manners.request_timeout

    async def read(self, name: str, start: int, stop: int, tally: Counter[str]) -> bytes:
        call = partial(self._filesystem.cat_file, f"{self._root}/{name}", start=start, end=stop)
        async with self._gate:
            if self._turns is not None:
                await self._turns.mine()
            tally["requests"] += 1
            try:
                reading = asyncio.get_running_loop().run_in_executor(self._pool, call)
                data: bytes = await asyncio.wait_for(reading, self._timeout)
            except FileNotFoundError as error:
                raise Trouble("missing_file", is_refused=True) from error
            except PermissionError as error:
                raise Trouble("forbidden", is_refused=True) from error
            except TimeoutError as error:
                raise Trouble("timeout") from error
            except Exception as error:  # what boto and other backends raise has no common class
                raise Trouble("read_error") from error
        tally["bytes"] += len(data)
        return data
