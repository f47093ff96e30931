"""A WARC file made record by record, and the corpus of the sample crawl, built once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest

from sea_lion.catalog.fingerprint import file_digest
from sea_lion.catalog.languages import LANGUAGES
from sea_lion.catalog.records import Artifact, Corpus, Shard
from sea_lion.catalog.store import Options, Store, write_rows
from sea_lion.data.build import build_corpus
from sea_lion.data.recipe import CorpusRecipe, Source


@dataclass
class WarcFile:
    """A WARC file in the making; each record is a gzip member of its own."""

    path: Path
    members: list[bytes] = field(default_factory=list)

    def record(self, kind: str, headers: dict[str, str], block: bytes) -> None:
        """Add one record."""
        head = {"WARC-Type": kind, "WARC-Date": "2024-04-12T10:00:00Z", "Content-Length": str(len(block))} | headers
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        self.members.append(gzip.compress(f"WARC/1.0\r\n{lines}\r\n".encode() + block + b"\r\n\r\n", mtime=0))

    def page(
        self, url: str, body: bytes, http: str = "Content-Type: text/html", status: str = "200 OK", **headers: str
    ) -> None:
        """Add a `response`."""
        fields = {"WARC-Target-URI": url, "WARC-Record-ID": f"<{url}>", "Content-Type": "application/http; msgtype=response"}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.record("response", fields, f"HTTP/1.1 {status}\r\n{http}\r\n\r\n".encode() + body)

    def note(self, url: str, *shares: tuple[str, float], reliable: bool = True, concurrent: str = "") -> None:
        """Add the `metadata` record with `languages-cld2`."""
        languages = [{"code": "xx", "code-iso-639-3": code, "text-covered": share} for code, share in shares]
        table = json.dumps({"reliable": reliable, "text-bytes": 900, "languages": languages})
        fields = {"WARC-Target-URI": url, "WARC-Concurrent-To": concurrent or f"<{url}>"}
        self.record("metadata", fields, f"charset-detected: UTF-8\r\nlanguages-cld2: {table}\r\n".encode())

    def save(self) -> Path:
        """Write the file."""
        self.path.write_bytes(b"".join(self.members))
        return self.path


@pytest.fixture
def warc(tmp_path: Path) -> WarcFile:
    """An empty WARC file."""
    return WarcFile(tmp_path / "crawl.warc.gz")


def write_shard(folder: Path, path: str, language: str, split: str, rows: list[dict[str, str]]) -> Shard:
    """A corpus's shard of some documents, as it is recorded."""
    (folder / path).parent.mkdir(exist_ok=True)
    write_rows(folder / path, rows, pa.schema([(name, pa.string()) for name in rows[0]]))
    texts = [row["text"] for row in rows]
    return Shard(
        path=path, language=language, source="web", split=split, documents=len(texts), characters=sum(map(len, texts)),
        bytes=sum(len(text.encode()) for text in texts), sha256=file_digest(folder / path),
    )  # fmt: skip


def corpus_recipe(**changes: object) -> CorpusRecipe:
    """A recipe over the three kinds of source in the sample."""
    fields: dict[str, object] = {
        "kind": "corpus", "name": "corpus/sample", "version": "1", "languages": tuple(LANGUAGES), "heldout_documents": 4,
        "source": (
            Source(name="web", form="warc", files=("package:data/sample/crawl/*.warc.gz",), crawl="CC-MAIN-2024-18"),
            Source(name="text", form="jsonl", files=("package:data/sample/english.jsonl",), language="eng"),
            Source(name="code", form="files", files=("package:catalog/*.py",), language="code"),
        ),
    }  # fmt: skip
    return CorpusRecipe(**(fields | changes))  # type: ignore[arg-type]


Build = Callable[..., tuple[Artifact, Path]]


@pytest.fixture(scope="session")
def build() -> Build:
    """Builds a recipe in a store; gives the artifact and its folder."""

    def built(root: Path, recipe: CorpusRecipe | None = None, workers: int = 1, **changes: object) -> tuple[Artifact, Path]:
        store = Store(root)
        artifact = store.make(recipe or corpus_recipe(**changes), Path("/"), build_corpus, Options(workers=workers))
        assert isinstance(artifact.body, Corpus)
        return artifact, store.folder(artifact.ref)

    return built


@pytest.fixture(scope="session")
def sample_corpus(build: Build, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    """The corpus of the sample crawl."""
    return build(tmp_path_factory.mktemp("sample-corpus"))
