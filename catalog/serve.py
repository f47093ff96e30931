"""`sea-lion serve`: the report of a catalog, live and read-only, with the progress of what runs.

The pages are made by a thread of their own whenever the records changed, and are put in place all at once; a request is
answered from memory, so that no reader waits for a refresh and no path of a request reaches the file system. Making a page per
request was refused: a slow query would be a way to stop the server.

It listens on 127.0.0.1 unless told otherwise. A page of another site could still reach that through a name that it lets point
there (DNS rebinding): the Host header must be ours. On any other address a token is required; it travels in clear, so put TLS
in front of it, or an SSH tunnel.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import ipaddress
import json
import logging
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import ClassVar

from aiohttp import web

from . import index
from .errors import SeaLionError
from .progress import read_progress
from .progress_page import progress_page
from .report import site
from .store import Store

log = logging.getLogger(__name__)

POLL = 2.0
"""Seconds between two looks at whether the records changed; more where a look takes long."""
REST = 4.0
"""A look, or a refresh, is followed by a rest of that many times what it took."""
SHORTEST_TOKEN = 16
AUTO = "auto"
"""As a token: make one and say it."""
HTML, JSON = "text/html; charset=utf-8", "application/json"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
    "Server": "sea-lion",
}
LIVE = '<a href="progress.html">Now</a>'
"""Added to the report's pages where they list each other: only a server has this one."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Page:
    """A page, ready to be sent."""

    body: bytes
    compressed: bytes
    etag: str

    @classmethod
    def of(cls, text: str) -> Page:
        """Encode and compress a page; the same text gives the same page."""
        body = text.encode("utf-8", "replace")
        return cls(body, gzip.compress(body, mtime=0), hashlib.sha256(body).hexdigest()[:32])


class LiveSite:
    """The pages of the report, kept up to date by a thread."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._root = open_store().root
        self._made_from: tuple[int, int, int] | None = None
        self.pages: dict[str, Page] = {}
        self.problem = ""
        """Why the pages could not be brought up to date last time, in a line."""

    def refresh(self) -> None:
        """Bring index and pages up to the records, if these changed."""
        store = self._open_store()
        index.published(store)
        file = (store.root / index.INDEX).stat()
        state = (file.st_mtime_ns, file.st_ino, file.st_size)
        if state != self._made_from:  # another process may have refreshed it
            made = site(store)
            self.pages = {name: Page.of(html.replace("</nav>", f"{LIVE}</nav>", 1)) for name, html in made.items()}
            self._made_from = state

    def keep_fresh(self, ended: threading.Event) -> None:
        """Refresh until told to end; whatever fails, the pages made before stay."""
        pause = 0.0
        while not ended.wait(pause):
            start = time.monotonic()
            try:
                self.refresh()
                self.problem = ""
            except Exception as error:
                problem = " ".join(str(error).split()) or type(error).__name__
                if problem != self.problem:
                    log.warning(
                        "the report stays as it was: %s", problem, exc_info=not isinstance(error, (SeaLionError, OSError))
                    )
                self.problem = problem
            pause = max(POLL, REST * (time.monotonic() - start))

    def progress(self) -> tuple[str, str]:
        """The page of what runs now, and the same as JSON."""
        found = read_progress(self._root)
        table = [asdict(progress) | {"seconds_left": progress.seconds_left} for progress in found]
        return progress_page(found, self.problem), json.dumps({"progress": table}, ensure_ascii=False)


class Guard:
    """Lets through what may be answered: reading, under our own name, with the token where there is one."""

    OPEN: ClassVar[frozenset[str]] = frozenset({"/healthz"})
    """Paths that need no token, for what watches the server: they say nothing about the catalog."""

    def __init__(self, host: str, token: str) -> None:
        self._names = {"localhost", "127.0.0.1", "[::1]", host.lower()}
        self._token = token.encode()
        self._cookie_value = hmac.new(self._token, b"cookie", "sha256").hexdigest()

    @property
    def has_token(self) -> bool:
        """Whether a token is asked for."""
        return bool(self._token)

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request or refuse it."""
        if request.method not in ("GET", "HEAD"):
            return _refusal(405, "This server is read only.", Allow="GET, HEAD")
        if not self._token:
            name = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::\d+)?", request.host)
            if name is None or name[1].lower() not in self._names:
                return _refusal(421, "Not the name of this server; ask for it as localhost.")
        elif request.path not in self.OPEN:
            if "token" in request.query:
                return self._welcome(request) if self._is_token(request.query["token"]) else self._unknown()
            if not self._is_known(request):
                return self._unknown()
        return await handler(request)

    def _is_known(self, request: web.Request) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        cookie = request.cookies.get(self._cookie(request), "")
        by_header = scheme.lower() == "bearer" and self._is_token(given.strip())
        return by_header or hmac.compare_digest(cookie.encode("utf-8", "replace"), self._cookie_value.encode())

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token)

    def _cookie(self, request: web.Request) -> str:
        """Cookies know no ports: two servers on one machine keep theirs apart by name."""
        address = request.transport.get_extra_info("sockname") if request.transport else None
        return f"sea_lion_{address[1] if address else 0}"

    def _welcome(self, request: web.Request) -> web.Response:
        """Keep the token in a cookie and lead to the page without it: addresses end up in histories."""
        is_plain = re.fullmatch(r"(/[A-Za-z0-9._-]+)*/?", request.path)  # `//other.example` would lead elsewhere
        response = web.Response(status=303, headers={"Location": request.path if is_plain else "/"})
        response.set_cookie(self._cookie(request), self._cookie_value, httponly=True, samesite="Lax", path="/")
        return response

    def _unknown(self) -> web.Response:
        return _refusal(401, "A token is needed: open the address that sea-lion serve wrote.", **{"WWW-Authenticate": "Bearer"})


def _refusal(status: int, text: str, **headers: str) -> web.Response:
    return web.Response(status=status, text=text + "\n", headers=headers)


def application(live: LiveSite, guard: Guard) -> web.Application:
    """The aiohttp application."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await guard(request, handler)

    async def answer(request: web.Request) -> web.Response:
        path = request.path
        if path == "/healthz":
            status = "starting" if not live.pages else "stale" if live.problem else "ok"
            return web.json_response({"status": status}, status=200 if live.pages else 503)
        if path in ("/progress.html", "/api/progress"):
            page, table = await asyncio.to_thread(live.progress)
            return web.Response(body=(table if path == "/api/progress" else page).encode("utf-8", "replace"), headers={
                "Content-Type": JSON if path == "/api/progress" else HTML
            })  # fmt: skip
        found = live.pages.get(path[1:] or "index.html")
        if found is not None:
            return _sent(request, found)
        if not live.pages:
            words = live.problem or "the report is being made"
            return web.Response(status=503, text=f"{words}\n", headers={"Retry-After": "2", "Refresh": "2"})
        return _refusal(404, "No such page; the report begins at /.")

    async def prepared(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS)

    app = web.Application(middlewares=[guarded])
    app.on_response_prepare.append(prepared)
    app.router.add_route("*", "/{path:.*}", answer)
    return app


def _sent(request: web.Request, page: Page) -> web.Response:
    takes_gzip = re.search(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))", request.headers.get("Accept-Encoding", "")) is not None
    etag = f"{page.etag}-gz" if takes_gzip else page.etag
    headers = {"ETag": f'"{etag}"', "Vary": "Accept-Encoding"}
    if any(given.value in (etag, "*") for given in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    if takes_gzip:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=page.compressed if takes_gzip else page.body, headers=headers | {"Content-Type": HTML})


def serve(open_store: Callable[[], Store], *, host: str = "127.0.0.1", port: int = 8000, token: str = "") -> int:
    """Serve a catalog until Ctrl-C or SIGTERM; returns the exit code.

    Port 0 takes a free one. Raises SeaLionError for a catalog that is not there, an address that cannot be had, and another
    address than this machine's own without a token.
    """
    live = LiveSite(open_store)
    if token == AUTO:
        token = secrets.token_urlsafe(24)
        log.info("token: %s", token)
    if not token and not _is_loopback(host):
        raise SeaLionError(f"--host {host}: others can reach it; give a --token, or '--token {AUTO}' to have one made")
    if token and len(token) < SHORTEST_TOKEN:
        raise SeaLionError(f"--token: at least {SHORTEST_TOKEN} characters; '--token {AUTO}' makes one")
    asyncio.run(_listen(live, Guard(host, token), host, port))
    return 0


async def _listen(live: LiveSite, guard: Guard, host: str, port: int) -> None:
    runner = web.AppRunner(application(live, guard), access_log=None, shutdown_timeout=2.0)  # an access log would hold tokens
    await runner.setup()
    ended = threading.Event()
    thread = threading.Thread(target=live.keep_fresh, args=(ended,))
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except (OSError, OverflowError) as error:  # a port above 65,535 is the latter
            reason = getattr(error, "strerror", None) or str(error)
            raise SeaLionError(
                f"{host}:{port}: cannot listen there: {reason}; choose another --port, or 0 for a free one"
            ) from error
        thread.start()
        name = host if _is_loopback(host) else socket.gethostname()
        shown = f"[{name}]" if ":" in name else name
        query = "?token=…" if guard.has_token else ""
        log.info("http://%s:%d/%s (Ctrl-C ends it)", shown, runner.addresses[0][1], query)
        await _interrupted()
    finally:
        ended.set()
        await runner.cleanup()
        if thread.ident is not None:
            await asyncio.to_thread(thread.join)


async def _interrupted() -> None:
    """Wait for Ctrl-C or SIGTERM; a second one does not wait for what is being ended."""
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    await asked.wait()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
