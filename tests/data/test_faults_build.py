"""One corpus out of every damaged file, broken annotation and hostile page known: each is counted, the good pages stay."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from sea_lion.catalog.records import Artifact
from sea_lion.catalog.store import Options, Store
from sea_lion.data.build import build_corpus
from sea_lion.data.ledger import imbalances
from sea_lion.data.recipe import CorpusRecipe, Source

from . import hostile

CUT = ("cut_record",)
BOMBS = {
    "attributes": b"<html><body><p " + b"a " * 300_000 + b">x</p></body></html>",
    "nested": b"<html><body>" + b"<div>" * 10_000 + b"deep" + b"</div>" * 10_000 + b"</body></html>",
    "comments": b"<html><body>" + b"<!-- " * 200_000,
    "brackets": b"<" * 1_000_000,
    "nul": b"<html><body>" + bytes(200_000) + b"</body></html>",
    "huge": b"<html><body>" + b"<p>word</p>" * 20_000_000,
}
NOTES = [
    "",
    "{",
    "null",
    "[" * 50_000,
    '{"reliable": true, "languages": [{"code-iso-639-3": 7, "text-covered": "x"}]}',
    "\x00\xff",
]


def articles(language: str) -> list[bytes]:
    """Pages of the sample's articles."""
    lines = files("sea_lion").joinpath(f"data/sample/articles/{language}.jsonl").read_text("utf-8").splitlines()
    bodies = ("".join(f"<p>{text}</p>" for text in json.loads(line)["paragraphs"]) for line in lines)
    return [f"<html><body><article>{body}</article></body></html>".encode() for body in bodies]


def bombs() -> tuple[bytes, set[str]]:
    """A file in which each bomb, and each broken annotation, stands between two good pages; and the good pages."""
    good, content, names = iter(articles("tha")), [], set[str]()
    for name, body in BOMBS.items():
        content += [hostile.page(f"before-{name}", next(good)), hostile.note(f"before-{name}", hostile.cld2(("tha", 0.9)))]
        content += [hostile.page(name, body), hostile.note(name, hostile.cld2(("tha", 0.9)))]
        names.add(f"before-{name}")
    for number, note in enumerate(NOTES):
        content += [hostile.page(f"note-{number}", next(good)), hostile.note(f"note-{number}", note)]
        names.add(f"note-{number}")
    body = next(good)
    content += [hostile.page("twice", body), hostile.page("twice", body)]
    for kind in ("revisit", "dns", "request", "resource", "unheard-of"):
        content.append(hostile.member(kind, {"WARC-Target-URI": hostile.address(kind)}, b"x"))
    return b"".join(content), names | {"twice"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path, set[str]]:
    """The corpus of all of them."""
    root = tmp_path_factory.mktemp("hostile")
    for number, (name, case) in enumerate(sorted(hostile.CASES.items())):
        content = case().content
        if content:
            (root / f"{number:03}-{name.replace(' ', '-').replace('/', '-')}.warc.gz").write_bytes(content)
    content, good = bombs()
    (root / "bombs.warc.gz").write_bytes(content)
    recipe = CorpusRecipe(
        kind="corpus", name="corpus/hostile", version="1", languages=("tha",), bad_files="count",
        source=(Source(name="web", form="warc", files=(str(root / "*.warc.gz"),)),),
    )  # fmt: skip
    store = Store(root / "artifacts")
    artifact = store.make(recipe, Path("/"), build_corpus, Options(workers=2))
    return artifact, store.folder(artifact.ref), good


def flow(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "flow.parquet").to_pylist()
    return rows


def test_the_good_pages_stay_once(built: tuple[Artifact, Path, set[str]]) -> None:
    _, folder, good = built
    rows = [row for path in folder.glob("shards/*/*/*.parquet") for row in pq.ParquetFile(path).read().to_pylist()]
    assert Counter(row["url"] for row in rows) == Counter(hostile.address(name) for name in good)
    assert all("\x00" not in row["text"] and len(row["text"]) > 200 for row in rows)


def test_everything_is_counted(built: tuple[Artifact, Path, set[str]]) -> None:
    artifact, folder, good = built
    rows = flow(folder)
    assert imbalances(rows) == []
    removed = Counter[str]()
    for row in rows:
        if row["outcome"] == "removed":
            removed[row["reason"]] += row["documents"]
    assert artifact.body.documents_in - removed.total() == len(good)  # type: ignore[union-attr]
    failures = pq.read_table(folder / "failures.parquet").to_pylist()
    found = sum(len(case().found) for case in hostile.CASES.values())
    lost = sum(len(case().found) for name, case in hostile.CASES.items() if _is_failed(name, failures))
    expected = found - lost + 2 * len(BOMBS) + len(NOTES) + 2
    assert artifact.body.documents_in == expected  # type: ignore[union-attr]
    for reason in ("cut_record", "damaged_record", "too_large", "too_complex", "exact_duplicate", "no_url", "status_404"):
        assert removed[reason], (reason, removed)


def _is_failed(name: str, failures: list[dict[str, Any]]) -> bool:
    return any(row["file"].endswith(f"-{name.replace(' ', '-').replace('/', '-')}.warc.gz") for row in failures)


def test_files_that_are_no_crawl_are_named(built: tuple[Artifact, Path, set[str]]) -> None:
    failures = pq.read_table(built[1] / "failures.parquet").to_pylist()
    assert failures and all(row["problem"].count("\n") == 0 and row["file"] in row["problem"] for row in failures)


def test_no_process_is_left(built: tuple[Artifact, Path, set[str]]) -> None:
    commands = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert not any("sea_lion.data.sandbox" in command for command in commands)
