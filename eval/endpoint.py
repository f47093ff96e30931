"""Asks an HTTP endpoint for many answers in JSON: a judge, or a scorer of translations.

An endpoint is asked again, with exponential pauses, when it is busy, stalls, breaks off or answers nonsense; what it refuses
for good is not tried twice. Each answer is handed over as soon as it is there, so that a run which ends early loses none.
After the first question that stays without an answer no new one is begun: with a server that is down, hundreds of questions
would each wait for minutes. Neither the address nor the key is put on record, or into a message.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import tenacity
from yarl import URL

from ..catalog.errors import SeaLionError

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_ANSWER_BYTES = 8 << 20
"""Of one answer."""
BUSY = (408, 409, 425, 429)
"""Statuses besides 5xx that a later try may mend."""
OF_ONE = (400, 413, 422)
"""Refusals of one question (it is too long, say); with any other status the next question is refused as well."""
WORDS = {"timeout": "no answer in time", "connection": "no connection", "malformed": "an answer that is not what was asked for"}


class Unanswered(SeaLionError):
    """Questions without an answer, and why; the answers that came before have been handed over."""

    def __init__(self, who: str, missing: int, asked: int, problem: str, *, is_final: bool = False) -> None:
        """`is_final`: asking again gives no more answers."""
        self.who, self.missing, self.asked, self.problem, self.is_final = who, missing, asked, problem, is_final
        others = "; the others are kept" if missing < asked else ""
        then = "" if is_final else "; run again"
        super().__init__(f"{who}: {problem}: {missing} of {asked} questions have no answer{others}{then}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where an endpoint is and how patiently it is asked: nothing that an answer depends on."""

    url: str
    """`http://host:port/v1`."""
    api_key_env: str = ""
    """Environment variable that holds its key; empty: it asks for none."""
    timeout: float = 120.0
    """For one answer, in seconds."""
    concurrency: int = 8
    """Questions asked at a time."""
    tries: int = 6
    """Times a question is asked before it is given up."""
    longest_pause: float = 60.0
    """Between two tries, in seconds."""

    def __post_init__(self) -> None:
        if problem := address_problem(self.url):
            raise ValueError(problem)
        if self.timeout <= 0 or self.concurrency < 1 or self.tries < 1 or self.longest_pause < 0:
            raise ValueError("timeout must be above 0, concurrency and tries at least 1, longest_pause at least 0")

    def key(self, who: str) -> str:
        """The key; raises Unanswered when its variable is not set."""
        if self.api_key_env and not os.environ.get(self.api_key_env):
            raise Unanswered(who, 1, 1, f"the environment variable {self.api_key_env}, which should hold its key, is not set")
        return os.environ[self.api_key_env] if self.api_key_env else ""


def address_problem(url: str) -> str:
    """What is wrong with an endpoint's address, empty when nothing is."""
    try:
        read = URL(url)
    except ValueError:
        return "url is not an address: write http://host:port/v1"
    if read.scheme not in ("http", "https") or not read.host:
        return "url must begin with http:// or https:// and name a host"
    if read.user or read.password:
        return "url must not hold a password: name an environment variable in api_key_env"
    return ""


class _Retry(Exception):
    def __init__(self, problem: str, pause: float = 0.0) -> None:
        self.pause = pause
        super().__init__(problem)


class _Refused(Exception):
    def __init__(self, problem: str, is_of_one: bool) -> None:
        self.is_of_one = is_of_one
        super().__init__(problem)


def ask(
    access: Access,
    who: str,
    path: str,
    bodies: Sequence[dict[str, Any]],
    read: Callable[[int, Any], T],
    keep: Callable[[int, T], None],
) -> None:
    """Post every body to `path`; each answer, as `read` makes it out of position and JSON, goes to `keep` with its position.

    `read` raises ValueError, LookupError or TypeError for JSON that is no answer: the question is then asked again. Raises
    Unanswered when questions stay without an answer.
    """
    run = _Run(access, who, path, access.key(who))
    asyncio.run(run.all(bodies, read, keep))
    if run.problem:
        is_final = not run.stopped.is_set()  # only single questions were refused, and each for good
        raise Unanswered(who, len(bodies) - run.answered, len(bodies), run.problem, is_final=is_final)


class _Run:
    """One round of questions."""

    def __init__(self, access: Access, who: str, path: str, key: str) -> None:
        self.access, self.who, self.key = access, who, key
        self.url = f"{access.url.rstrip('/')}/{path}" if path else access.url
        self.answered, self.problem = 0, ""
        self.stopped = asyncio.Event()

    async def all(
        self, bodies: Sequence[dict[str, Any]], read: Callable[[int, Any], T], keep: Callable[[int, T], None]
    ) -> None:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        timeout = aiohttp.ClientTimeout(total=self.access.timeout, sock_connect=min(30.0, self.access.timeout))
        connector = aiohttp.TCPConnector(limit=self.access.concurrency)
        waiting = enumerate(bodies)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.access.concurrency, len(bodies))):
                        group.create_task(self._worker(session, waiting, read, keep))
            except ExceptionGroup as several:  # a full disk under `keep`, say: the error is that, not a group
                raise several.exceptions[0] from None

    async def _worker(
        self,
        session: aiohttp.ClientSession,
        waiting: Iterator[tuple[int, dict[str, Any]]],
        read: Callable[[int, Any], T],
        keep: Callable[[int, T], None],
    ) -> None:
        while not self.stopped.is_set() and (drawn := next(waiting, None)):
            position, body = drawn
            try:
                answer: T = await self._retrying()(self._once, session, position, body, read)
            except (_Retry, _Refused) as error:
                self.problem = self.problem or str(error)
                if isinstance(error, _Retry) or not error.is_of_one:
                    self.stopped.set()
                continue
            keep(position, answer)
            self.answered += 1

    def _retrying(self) -> tenacity.AsyncRetrying:
        backoff = tenacity.wait_random_exponential(multiplier=0.5, max=self.access.longest_pause)

        def pause(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked_for = error.pause if isinstance(error, _Retry) else 0.0
            return min(max(asked_for, backoff(state)), self.access.longest_pause)

        async def sleep(seconds: float) -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), seconds)

        return tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Retry),
            stop=lambda state: state.attempt_number >= self.access.tries or self.stopped.is_set(),
            wait=pause,
            sleep=sleep,
            reraise=True,
        )

    async def _once(
        self, session: aiohttp.ClientSession, position: int, body: dict[str, Any], read: Callable[[int, Any], T]
    ) -> T:
        try:
            async with session.post(self.url, json=body, allow_redirects=False) as response:
                content = b""
                while len(content) < MAX_ANSWER_BYTES and (
                    more := await response.content.read(MAX_ANSWER_BYTES - len(content))
                ):
                    content += more
                if response.status >= 500 or response.status in BUSY:
                    raise _Retry(f"status {response.status}", _seconds(response.headers.get("Retry-After", "")))
                if response.status != 200:
                    problem = f"it refuses with status {response.status}: {self._said(content)}"
                    raise _Refused(problem, response.status in OF_ONE)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.debug("%s at %s: %r", self.who, self.url, error)
            raise _Retry(WORDS["timeout" if isinstance(error, TimeoutError) else "connection"]) from error
        try:
            return read(position, json.loads(content))
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise _Retry(WORDS["malformed"]) from error

    def _said(self, content: bytes) -> str:
        said = " ".join(content[:2000].decode("utf-8", "replace").split())
        return (said.replace(self.key, "***") if self.key else said)[:200]


def _seconds(text: str) -> float:
    """The pause that a server asks for, 0 when it gives a date or nothing."""
    return float(text) if text.strip().isdigit() and text.strip().isascii() else 0.0
