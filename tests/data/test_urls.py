"""URL lists: what an entry blocks, hostile addresses, and the compiled file."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sea_lion.catalog.errors import CorruptInput
from sea_lion.data.urls import BUNDLED, MAX_URL, Counts, UrlList, address, compile_list

LINES = """# a comment
bad.com
  Upper-Case.ORG
.bad

https://www.pages.net/a/One?x=1#part
pages.net/ที่นี่
http://whole.site/
ตลาด.example
1.2.3.4
[2001:DB8::1]/x
word:casino
word:คาสิโน
"""


def compiled(folder: Path, text: str | bytes, name: str = "list.txt") -> UrlList:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return UrlList.load(UrlList.compiled(path, folder / "cache"))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://bad.com", "blocked_domain"),
        ("HTTPS://WWW.Bad.Com:8443/x?y", "blocked_domain"),
        ("http://a.b.c.bad.com./x", "blocked_domain"),
        ("http://user:secret@bad.com/", "blocked_domain"),
        ("http://good.com@bad.com/", "blocked_domain"),
        ("http:\\\\bad.com\\x", "blocked_domain"),
        ("http://b%61d.com/", "blocked_domain"),
        ("bad.com/without/scheme", "blocked_domain"),
        ("//bad.com:80", "blocked_domain"),
        ("http://upper-case.org", "blocked_domain"),
        ("http://any.thing.bad/x", "blocked_domain"),
        ("http://whole.site/page", "blocked_domain"),
        ("http://ตลาด.example/", "blocked_domain"),
        ("http://shop.xn--12c1bu9b1d.example/", ""),
        ("http://1.2.3.4:8080/", "blocked_domain"),
        ("http://notbad.com", ""),
        ("http://bad.com.my", ""),
        ("http://com", ""),
        ("http://good.com/bad.com", ""),
        ("http://good.com/?u=http://bad.com/", ""),
        ("http://good.com#@bad.com/", ""),
        ("http://bad.com@good.com/", ""),
        ("https://pages.net/a/One?x=1", "blocked_url"),
        ("http://www.pages.net:80/a/One?x=1#other", "blocked_url"),
        ("http://pages.net/a/%4Fne?x=1", "blocked_url"),
        ("http://pages.net/%E0%B8%97%E0%B8%B5%E0%B9%88%E0%B8%99%E0%B8%B5%E0%B9%88/", "blocked_url"),
        ("http://[2001:db8::1]:80/x/", "blocked_url"),
        ("http://pages.net/a/one?x=1", ""),
        ("http://pages.net/a/One", ""),
        ("http://sub.pages.net/a/One?x=1", ""),
        ("http://pages.net/", ""),
        ("http://good.com/Online-CASINO/", "blocked_word"),
        ("http://casino.good.com/", "blocked_word"),
        ("http://good.com/%E0%B8%84%E0%B8%B2%E0%B8%AA%E0%B8%B4%E0%B9%82%E0%B8%99", "blocked_word"),
        ("http://good.com/casinos", ""),
    ],
)
def test_what_an_entry_blocks(tmp_path: Path, url: str, reason: str) -> None:
    assert compiled(tmp_path, LINES).reason(url) == reason


def test_an_international_name_is_its_ascii_form() -> None:
    assert address("http://ตลาด.example/x") == address(f"http://{'ตลาด.example'.encode('idna').decode().upper()}/x")
    assert address("http://ＢＡＤ．com/")[0] == "bad.com"


HOSTILE = [
    "", " ", "http:", "http://", "http:///path", "://x", "//", "/", "?", "#", "@", "http://@", "http://:80", "http://[",
    "http://]", "http://[::1", "http://a:b:c@d:99999999/", "http://..", "http://.com", "http://a..b.com/", "http://xn--/",
    "http://xn--a-ecp.ru/", "http://%00%ff/", "http://%zz/", "http://\x00bad\x00.com/", "http://\ud800.com/\udfff",
    "http://\u202e\u0627a.com", "javascript:alert(1)", "mailto:a@b.com", "data:text/html;base64,AAAA",
    "http://" + "a." * 100_000, "http://" + "é" * 100_000, "http://" + "%" * 100_000, "http://" + "ß." * 500_000,
    "http://x.com/" + "a" * 1_000_000, "a" * 1_000_000 + "://", "/" * 1_000_000, "@" * 1_000_000,
]  # fmt: skip


@pytest.mark.parametrize("url", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_addresses_are_not_listed(tmp_path: Path, url: str) -> None:
    assert compiled(tmp_path, LINES).reason(url) == ""


@settings(deadline=None)  # the machine may be busy
@given(st.text(st.characters() | st.sampled_from("htp:/@?#%.[]\\ก\ud800"), max_size=200))
def test_any_address_has_one_form(url: str) -> None:
    host, rest = address(url)
    assert host == host.lower() and len(host) <= 253 and len(host) + len(rest) <= 6 * MAX_URL
    assert address(f"http://{url}")[0] in (host, address(f"//{url}")[0])


def test_lines_that_are_no_entry_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(LINES.encode() + b"two words\nsingle\n\xff\xfe.com\n0.0.0.0 hosts.file\nword:two words\nword:\n")
    assert compile_list(path, tmp_path / "out.npy") == Counts(domains=6, urls=3, words=2, bad=6)
    assert len(UrlList.load(tmp_path / "out.npy")) == 6 + 3 + 2 + 1


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_packed_list_is_the_same(tmp_path: Path, is_packed: bool) -> None:
    data = LINES.replace("\n", "\r\n").encode()
    urls = compiled(tmp_path, gzip.compress(data) if is_packed else data)
    assert urls.reason("http://bad.com/") == "blocked_domain" and len(urls) == 12


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "holds no"),
        (b"# nothing\n\n", "holds no"),
        (b"127.0.0.1 a.com\n" * 40, "line 11: '127.0.0.1 a.com'"),
        (bytes(range(256)) * 50, "line"),
        (gzip.compress(LINES.encode() * 5_000)[:-20], "cannot be unpacked"),
        (gzip.compress(LINES.encode() * 5_000)[:60] + b"damage" * 9, "cannot be unpacked"),
    ],
    ids=range(6),  # of their own they would hold the time, and differ from one process to the other
)
def test_what_is_no_list_is_one_clear_error(tmp_path: Path, data: bytes, problem: str) -> None:
    with pytest.raises(CorruptInput, match=problem) as error:
        compiled(tmp_path, data)
    assert "list.txt" in str(error.value) and "\n" not in str(error.value)
    assert not list((tmp_path).glob("cache/*"))


def test_a_list_is_compiled_once(tmp_path: Path) -> None:
    path, cache = tmp_path / "list.txt", tmp_path / "cache"
    path.write_text("bad.com\n")
    first = UrlList.compiled(path, cache)
    made = first.stat()
    assert UrlList.compiled(path, cache) == first and first.stat() == made
    path.write_text("worse.com\n")
    second = UrlList.compiled(path, cache)
    assert second != first and UrlList.load(second).reason("http://bad.com") == ""
    assert UrlList.load(first).reason("http://bad.com") == "blocked_domain"
    assert sorted(cache.iterdir()) == sorted([first, second])
    with pytest.raises(CorruptInput, match="no such file"):
        UrlList.compiled(tmp_path / "missing.txt", cache)


def test_a_worker_is_sent_the_name_and_not_the_list(tmp_path: Path) -> None:
    urls = compiled(tmp_path, "".join(f"site{i}.example\n" for i in range(50_000)))
    sent = pickle.dumps(urls)
    assert len(sent) < 1_000 and pickle.loads(sent).reason("http://a.site49999.example/") == "blocked_domain"
    assert all(urls.reason(f"http://site{i}.example") for i in range(0, 50_000, 997))
    assert not any(urls.reason(f"http://site{i}.example") for i in range(50_000, 52_000))


def test_a_damaged_compiled_list_is_refused(tmp_path: Path) -> None:
    compiled(tmp_path, LINES)
    (path,) = (tmp_path / "cache").iterdir()
    for damage in (b"", path.read_bytes()[:50], path.read_bytes()[:-8], b"no array"):
        path.write_bytes(damage)
        with pytest.raises(CorruptInput, match="made again"):
            UrlList.load(path)


def test_the_lists_inside_datatrove(tmp_path: Path) -> None:
    urls = UrlList.load(UrlList.compiled("datatrove:urls", tmp_path))
    assert 19_000 < len(urls) < 21_000 and urls.reason("http://example.com/") == ""
    assert urls.reason("https://www.tumblr.com/caribbeancamgirls/") == "blocked_url"
    assert "datatrove:urls" in BUNDLED
    with pytest.raises(ValueError, match="datatrove:domains"):
        UrlList.compiled("datatrove:nonsense", tmp_path)
