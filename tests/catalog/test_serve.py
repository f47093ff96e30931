"""The server: what it answers and refuses, and that it keeps up with a catalog that changes under it."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from sea_lion.catalog import index, progress, serve
from sea_lion.catalog.errors import SeaLionError
from sea_lion.catalog.serve import Guard, LiveSite, application
from sea_lion.catalog.store import Store

TOKEN = "a-token-of-enough-characters"
CODE = """
import logging, sys
from pathlib import Path
from sea_lion.catalog.errors import SeaLionError
from sea_lion.catalog import serve
from sea_lion.catalog.store import Store
serve.POLL, serve.REST = 0.2, 0.5
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
def store():
    if not Path(sys.argv[1]).is_dir():
        raise SeaLionError(f"{sys.argv[1]}: no catalog there")
    return Store(Path(sys.argv[1]))
sys.exit(serve.serve(store, host=sys.argv[2], port=int(sys.argv[3]), token=sys.argv[4]))
"""


def start(root: Path, host: str = "127.0.0.1", port: int = 0, token: str = "") -> subprocess.Popen[str]:
    """A server in a process of its own."""
    arguments = [sys.executable, "-c", CODE, str(root), host, str(port), token]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


def port_of(process: subprocess.Popen[str]) -> int:
    """The port it says it listens on."""
    assert process.stderr is not None
    for line in process.stderr:
        match = re.search(r"http://\S+?:(\d+)/", line)
        if match:
            return int(match[1])
    raise AssertionError("the server ended")


def fetch(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body, the path sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, body


def eventually(answer: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = answer()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen")


@pytest.fixture(scope="module")
def root(filled: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of its own for the module's server."""
    root = tmp_path_factory.mktemp("served") / "artifacts"
    shutil.copytree(filled.root, root)
    return root


@pytest.fixture(scope="module")
def port(root: Path) -> Iterator[int]:
    """A server without a token, until the module ends: then Ctrl-C, to which it must answer with 0."""
    process = start(root)
    port = port_of(process)
    eventually(lambda: fetch(port, "/healthz")[0] == 200)
    yield port
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def test_pages_come_with_headers_that_keep_them_to_themselves(port: int) -> None:
    status, headers, body = fetch(port, "/")
    assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
    assert b"tiny-llama" in body and b'href="progress.html"' in body
    assert headers["content-security-policy"].startswith("default-src 'none'") and "frame-ancestors 'none'" in str(headers)
    assert headers["x-content-type-options"] == "nosniff" and headers["server"] == "sea-lion"
    assert fetch(port, "/index.html")[2] == body
    status, _, empty = fetch(port, "/", "HEAD")
    assert status == 200 and empty == b""


def test_what_a_reader_has_is_not_sent_again_and_the_rest_is_compressed(port: int) -> None:
    _, headers, body = fetch(port, "/")
    status, again, nothing = fetch(port, "/", If_None_Match=headers["etag"])
    assert (status, nothing) == (304, b"") and again["etag"] == headers["etag"]
    _, small, packed = fetch(port, "/", Accept_Encoding="br, gzip")
    assert small["content-encoding"] == "gzip" and small["etag"] != headers["etag"] and len(packed) < len(body) / 3
    assert gzip.decompress(packed) == body
    assert "content-encoding" not in fetch(port, "/", Accept_Encoding="gzip;q=0")[1]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
def test_only_reading(port: int, method: str) -> None:
    status, headers, _ = fetch(port, "/", method)
    assert status == 405 and headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/..%2f..%2fetc/passwd", "/%2e%2e/catalog.duckdb", "/catalog.duckdb", "//etc/passwd",
        "/corpus/tiny/1/artifact.json", "/index.html/", "/index.html%00", "/.progress", "/<script>alert(1)</script>",
        "/C:\\windows\\win.ini", "/" + "a" * 4000, "/api/", "/api/progress/..",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(port: int, path: str) -> None:
    status, headers, body = fetch(port, path)
    assert status == 404 and b"root:" not in body and b"script" not in body
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil.example", ""])
def test_another_name_is_refused(port: int, host: str) -> None:
    assert fetch(port, "/", Host=host)[0] == 421
    assert fetch(port, "/api/progress", Host=host)[0] == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:8000"])
def test_our_own_names_are_answered(port: int, host: str) -> None:
    assert fetch(port, "/", Host=host)[0] == 200


def test_progress_of_a_run_is_seen_as_it_happens(port: int, root: Path) -> None:
    assert b"Nothing runs now" in fetch(port, "/progress.html")[2]
    hostile = "</h2><script>alert(1)</script>\u202e"
    with progress.reported(root, "checkpoint/x@1", "train") as report:
        curve = ((1, 9.0), (2, 8.0))
        report.update(stage=hostile, done=2, total=10, unit="steps", loss=float("nan"), lr=1e-3, losses=curve)
        page = fetch(port, "/progress.html")[2].decode()
        assert "1 in the making" in page and "2 of 10 steps" in page and "<polyline" in page and "checkpoint/x@1" in page
        assert "<script" not in page and "\u202e" not in page and 'http-equiv="refresh" content="2"' in page
        report.update(stage="late", done=9, total=10, tokens_per_second=1234.0)
        (task,) = json.loads(fetch(port, "/api/progress")[2])["progress"]
        assert (task["done"], task["state"], task["tokens_per_second"]) == (9, "running", 1234.0)
    assert json.loads(fetch(port, "/api/progress")[2]) == {"progress": []}


def test_readers_are_answered_while_the_index_is_made_anew_and_see_what_is_new(port: int, root: Path) -> None:
    before = fetch(port, "/")[1]["etag"]
    answers: list[int] = []
    rebuild = threading.Thread(target=lambda: [index.rebuild(Store(root)) for _ in range(3)])
    rebuild.start()
    while rebuild.is_alive():
        answers.append(fetch(port, "/")[0])
    assert set(answers) == {200}
    shutil.rmtree(root / "promotion" / "tiny-llama" / "final")
    eventually(lambda: fetch(port, "/")[1]["etag"] != before)


def test_a_lost_folder_leaves_the_pages_as_they_were(port: int, root: Path) -> None:
    root.rename(root.with_name("away"))
    eventually(lambda: json.loads(fetch(port, "/healthz")[2])["status"] == "stale")
    assert fetch(port, "/")[0] == 200
    status, _, page = fetch(port, "/progress.html")
    assert status == 200 and b"could not be brought up to date" in page and b"no catalog there" in page
    root.with_name("away").rename(root)
    eventually(lambda: json.loads(fetch(port, "/healthz")[2])["status"] == "ok")


def test_what_cannot_be_served_is_said_in_a_line(filled: Store) -> None:
    def opened() -> Store:
        if not filled.root.is_dir():
            raise SeaLionError(f"{filled.root}: no catalog there")
        return Store(filled.root)

    def attempt(host: str, port: int, token: str) -> str:
        with pytest.raises(SeaLionError) as caught:
            serve.serve(opened, host=host, port=port, token=token)
        return str(caught.value)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        assert attempt("127.0.0.1", number, "").startswith(f"127.0.0.1:{number}: cannot listen there: ")
    assert "others can reach it; give a --token" in attempt("0.0.0.0", 0, "")
    assert "others can reach it" in attempt("::", 0, "") and "others can reach it" in attempt("", 0, "")
    assert "at least 16 characters" in attempt("0.0.0.0", 0, "short")
    assert "cannot listen there" in attempt("no.such.host.invalid", 0, TOKEN)
    filled.root.rename(filled.root.with_name("away"))
    try:
        assert "no catalog there" in attempt("127.0.0.1", 0, "")
    finally:
        filled.root.with_name("away").rename(filled.root)


def asked(live: LiveSite, guard: Guard, *requests: tuple[str, dict[str, Any]]) -> list[tuple[int, dict[str, str], str]]:
    """Answers of the application within this process; cookies are kept from one request to the next."""

    async def ask() -> list[tuple[int, dict[str, str], str]]:
        async with TestClient(TestServer(application(live, guard))) as client:
            answers = []
            for path, options in requests:
                response: ClientResponse = await client.get(path, allow_redirects=False, **options)
                answers.append((response.status, dict(response.headers), await response.text()))
            return answers

    return asyncio.run(ask())


@pytest.fixture
def live(filled: Store) -> LiveSite:
    """A site that was made once."""
    live = LiveSite(lambda: Store(filled.root))
    live.pages = {"index.html": serve.Page.of("<body>the report</body>")}
    return live


def test_a_token_is_needed_and_kept_in_a_cookie(live: LiveSite) -> None:
    guard = Guard("0.0.0.0", TOKEN)
    bearer = {"headers": {"Authorization": f"Bearer {TOKEN}", "Host": "any.name"}}
    wrong = {"headers": {"Authorization": f"Bearer {TOKEN}x"}}
    answers = asked(
        live, guard, ("/", {}), ("/", wrong), ("/api/progress", {}), ("/healthz", {}), ("/", bearer),
        ("/index.html?token=wrong", {}), (f"/index.html?token={TOKEN}", {}), ("/", {}), ("/progress.html", {}),
    )  # fmt: skip
    assert [status for status, _, _ in answers] == [401, 401, 401, 200, 200, 401, 303, 200, 200]
    assert all("report" not in text for status, _, text in answers if status == 401)
    _, headers, _ = answers[6]
    assert headers["Location"] == "/index.html" and TOKEN not in str(headers)
    assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=Lax" in headers["Set-Cookie"]


@pytest.mark.parametrize("path", ["/a//evil.example", "/%5Cevil.example", "/%0d%0aX:%20y", "/a//b"])
def test_the_way_from_a_token_leads_to_no_other_place(live: LiveSite, path: str) -> None:
    ((status, headers, _),) = asked(live, Guard("0.0.0.0", TOKEN), (f"{path}?token={TOKEN}", {}))
    assert (status, headers["Location"]) == (303, "/")


def test_before_the_first_pages_are_made_it_says_so(filled: Store) -> None:
    live = LiveSite(lambda: Store(filled.root))
    (page, health) = asked(live, Guard("127.0.0.1", ""), ("/", {}), ("/healthz", {}))
    assert page[0] == 503 and "being made" in page[2] and page[1]["Retry-After"] == "2"
    assert health[0] == 503 and json.loads(health[2]) == {"status": "starting"}


def test_a_failed_refresh_is_kept_as_the_problem_and_ends_when_it_does(
    filled: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = [False]

    def store() -> Store:
        if failing[0]:
            raise SeaLionError("the shared folder is gone")
        return Store(filled.root)

    monkeypatch.setattr(serve, "POLL", 0.01)
    monkeypatch.setattr(serve, "REST", 0.0)
    live, ended = LiveSite(store), threading.Event()
    failing[0] = True
    thread = threading.Thread(target=live.keep_fresh, args=(ended,))
    thread.start()
    eventually(lambda: live.problem)
    time.sleep(0.1)
    assert live.problem == "the shared folder is gone" and not live.pages
    assert len(caplog.records) == 1  # said once, not at every look
    failing[0] = False
    eventually(lambda: live.pages and not live.problem)
    ended.set()
    thread.join()


def test_a_token_is_made_when_asked_for(root: Path) -> None:
    process = start(root, token=serve.AUTO)
    assert process.stderr is not None
    token = next(line for line in process.stderr if line.startswith("token: ")).split()[1]
    port = port_of(process)
    assert len(token) >= 32
    assert fetch(port, "/progress.html")[0] == 401
    assert fetch(port, "/progress.html", Authorization=f"Bearer {token}")[0] == 200
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(20) == 0
