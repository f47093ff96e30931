"""The stages of the corpus pipeline as datatrove steps: each counts in a ledger what enters, leaves and is removed, and why.

A stage judges one document at a time; it may change it. The judgements themselves are plain functions in the modules beside
this one.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import loguru
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashDedupFilter
from datatrove.pipeline.filters.base_filter import BaseFilter

from .charset import decode
from .dedup import text_digest
from .extract import TooComplex, article, tidy
from .language import claimed, identify
from .ledger import Tally
from .privacy import KINDS, mask
from .quality import CODE, Thresholds, fault, too_short_or_long
from .shards import ROW_GROUP, SCHEMA, document, domain_of, read_rows, row, write_shard
from .sources import Task, documents

# datatrove adds its log to standard error in every task; its log files are not kept either, and failures are raised.
# Here and not in the caller, because worker processes import this module and nothing above it.
loguru.logger.disable("datatrove")

Verdict = bool | tuple[bool, str]


def _counted(tally: Tally, outcome: str, document: Document, language: str = "", reason: str = "") -> None:
    metadata = document.metadata
    tally.add(outcome, metadata["source"], language or metadata["language"], metadata["bytes"], reason)


class Stage(BaseFilter):  # type: ignore[misc]  # datatrove is untyped
    """A step that keeps or removes documents and counts both under the language that they entered with."""

    stage = ""
    """Its name in the ledger."""

    def __init__(self, ledger: str) -> None:
        super().__init__()
        self.ledger = ledger
        self.name = self.stage

    @abstractmethod
    def filter(self, doc: Document) -> Verdict:
        """True to keep, (False, reason) to remove."""

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Judge every document."""
        tally = Tally(self.stage)
        for doc in data:
            language = doc.metadata["language"]
            _counted(tally, "in", doc, language)
            verdict = self.filter(doc)
            if verdict is True:
                _counted(tally, "out", doc, language)
                yield doc
            else:
                _counted(tally, "removed", doc, language, verdict[1] if isinstance(verdict, tuple) else self.stage)
        tally.save(Path(self.ledger), rank)


class Read(PipelineStep):  # type: ignore[misc]  # datatrove is untyped
    """All records of the task with this rank, usable or not."""

    type, name = "reader", "records"

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks = list(tasks)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Read the records."""
        yield from documents(self.tasks[rank])


class Usable(Stage):
    """Drops records that hold no page: errors, redirections, images, what is cut, damaged or too large."""

    stage = "read"

    def filter(self, doc: Document) -> Verdict:
        """Keep a record without a fault."""
        reason = doc.metadata["fault"]
        return (False, reason) if reason else True


class Gate(Stage):
    """Drops pages whose annotation names no wanted language, before anything of them is parsed."""

    stage = "gate"

    def __init__(self, ledger: str, languages: Sequence[str], uses_annotation: bool) -> None:
        super().__init__(ledger)
        self.languages, self.uses_annotation = frozenset(languages), uses_annotation

    def filter(self, doc: Document) -> Verdict:
        """Label the document with the language that is expected."""
        if given := doc.metadata.get("given"):
            doc.metadata["language"] = given
            return True
        language, reason = claimed(doc.metadata["claim"], self.languages)
        if reason and self.uses_annotation:
            return False, reason
        doc.metadata["language"] = language
        return True


class Decode(Stage):
    """Turns a page's bytes into text."""

    stage = "decode"

    def filter(self, doc: Document) -> Verdict:
        """Keep what can be decoded; documents of other forms are text already."""
        payload = doc.metadata.pop("payload", None)
        if payload is None:
            return True
        decoded = decode(payload, doc.metadata.pop("content_type"), doc.metadata.pop("noted_charset"))
        if decoded is None:
            return False, "undecodable"
        doc.text, doc.metadata["charset"] = decoded.text, decoded.charset
        return True


class Extract(Stage):
    """Turns a page into the text of its article; from here on, bytes are those of the text."""

    stage = "extract"

    def filter(self, doc: Document) -> Verdict:
        """Keep pages that hold an article; an error costs this page only."""
        given = doc.metadata.get("given")
        try:
            text = doc.text if given == CODE else tidy(doc.text) if given else article(doc.text)
        except TooComplex:
            return False, "too_complex"
        except Exception:  # whatever a page makes the parsers raise; counted
            return False, "extraction_error"
        if not text:
            return False, "no_article"
        doc.text = text
        doc.metadata["bytes"] = len(text.encode())
        return True


class Identify(Stage):
    """Labels a page with the language of its text and drops other languages and doubtful ones."""

    stage = "identify"

    def __init__(self, ledger: str, languages: Sequence[str], thresholds: Mapping[str, Thresholds]) -> None:
        super().__init__(ledger)
        self.languages, self.thresholds = frozenset(languages), dict(thresholds)

    def filter(self, doc: Document) -> Verdict:
        """Keep wanted languages; a language that was given is believed."""
        if doc.metadata.get("given"):
            return True
        found = identify(doc.text, doc.metadata["claim"])
        if found.language not in self.languages:
            return False, f"detected_{found.language}"
        if found.score < self.thresholds[found.language].language_score:
            return False, "low_language_score"
        doc.metadata |= {"language": found.language, "language_score": found.score}
        return True


class Quality(Stage):
    """Drops texts that break a rule of their language; of texts that were not crawled, the length only."""

    stage = "quality"

    def __init__(self, ledger: str, thresholds: Mapping[str, Thresholds]) -> None:
        super().__init__(ledger)
        self.thresholds = dict(thresholds)

    def filter(self, doc: Document) -> Verdict:
        """Keep a text without a fault."""
        language = doc.metadata["language"]
        limits = self.thresholds[language]
        reason = too_short_or_long(doc.text, limits) if "given" in doc.metadata else fault(doc.text, language, limits)
        return (False, reason) if reason else True


class Mask(Stage):
    """Masks personal data; removes nothing."""

    stage = "mask"

    def __init__(self, ledger: str, is_on: bool) -> None:
        super().__init__(ledger)
        self.is_on = is_on

    def filter(self, doc: Document) -> Verdict:
        """Mask, and note how often; in source code, a run of digits is no telephone number."""
        if self.is_on:
            kinds = [kind for kind in KINDS if kind != "phone" or doc.metadata["language"] != CODE]
            masked = mask(doc.text, kinds)
            doc.text = masked.text
            doc.metadata |= {f"masked_{kind}s": count for kind, count in masked.counts.items()}
            doc.metadata["bytes"] = len(doc.text.encode())
        return True


class Spool(PipelineStep):  # type: ignore[misc]  # datatrove is untyped
    """Writes documents to `folder/<language>/<rank>.parquet` and passes them on."""

    type, name = "writer", "spool"

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write in batches of `ROW_GROUP` documents."""
        writers: dict[str, pq.ParquetWriter] = {}
        while batch := list(islice(data, ROW_GROUP)):
            by_language: dict[str, list[dict[str, Any]]] = {}
            for doc in batch:
                doc.metadata["domain"] = doc.metadata.get("domain") or domain_of(doc.metadata["url"])
                by_language.setdefault(doc.metadata["language"], []).append(row(doc))
            for language, rows in by_language.items():
                if language not in writers:
                    path = Path(self.folder) / language / f"{rank:06}.parquet"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    writers[language] = pq.ParquetWriter(path, SCHEMA, compression="zstd")
                writers[language].write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            yield from batch
        for writer in writers.values():
            writer.close()


class ReadSpool(PipelineStep):  # type: ignore[misc]  # datatrove is untyped
    """The documents of one language a task, ordered by id."""

    type, name = "reader", "spool"

    def __init__(self, folder: str, languages: Sequence[str]) -> None:
        super().__init__()
        self.folder, self.languages = folder, list(languages)

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Read `folder/<language>` of this task's language."""
        yield from map(document, read_rows(Path(self.folder) / self.languages[rank]))


class ExactDuplicates(Stage):
    """Drops documents whose normalised text has been seen; as they come ordered by id, the smallest id stays."""

    stage = "exact"

    def __init__(self, ledger: str, is_on: bool) -> None:
        super().__init__(ledger)
        self.is_on = is_on
        self._seen: set[str] = set()

    def filter(self, doc: Document) -> Verdict:
        """Keep the first document with this text."""
        if not self.is_on:
            return True
        digest = text_digest(doc.text)
        if digest in self._seen:
            return False, "exact_duplicate"
        self._seen.add(digest)
        return True


class NearDuplicates(MinhashDedupFilter):  # type: ignore[misc]  # datatrove is untyped
    """datatrove's last MinHash stage, counted: one document of each cluster stays."""

    def __init__(self, input_folder: str, ledger: str) -> None:
        super().__init__(input_folder=input_folder)
        self.ledger = ledger

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Generator[Document, None, None]:
        """Drop what the clustering marked."""
        tally = Tally("near")
        self.exclusion_writer = _Removals(tally)
        for doc in super().run(_entering(data, tally), rank, world_size):
            _counted(tally, "out", doc)
            yield doc
        tally.save(Path(self.ledger), rank)


def _entering(data: Iterator[Document], tally: Tally) -> Iterator[Document]:
    for doc in data:
        _counted(tally, "in", doc)
        yield doc


class _Removals:
    """What datatrove calls an exclusion writer: it is handed the documents that are dropped."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    def __enter__(self) -> _Removals:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def write(self, doc: Document, rank: int) -> None:
        _counted(self.tally, "removed", doc, reason="near_duplicate")


class WriteShards(PipelineStep):  # type: ignore[misc]  # datatrove is untyped
    """Writes the shards of one language a task: `shards/<source>/<language>-<split>.parquet`."""

    type, name = "writer", "shards"

    def __init__(self, folder: str, ledger: str, heldout_documents: int) -> None:
        super().__init__()
        self.folder, self.ledger, self.heldout_documents = folder, ledger, heldout_documents

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the documents in the order in which they come, and pass nothing on."""
        tally = Tally("write")
        shards: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        kept = []
        for doc in data:
            _counted(tally, "in", doc)
            _counted(tally, "out", doc)
            kept.append(row(doc))
        heldout = heldout_ids(kept, self.heldout_documents)
        for values in kept:
            values["split"] = "heldout" if (values["source"], values["id"]) in heldout else "train"
            shards.setdefault((values["source"], values["language"], values["split"]), []).append(values)
        for (source, language, split), rows in shards.items():
            write_shard(Path(self.folder) / "shards" / source / f"{language}-{split}.parquet", rows)
        tally.save(Path(self.ledger), rank)
        yield from ()


def heldout_ids(rows: Sequence[Mapping[str, Any]], count: int) -> set[tuple[str, str]]:
    """Source and id of the `count` documents of source `web` whose texts have the lowest sha256.

    The choice is by content, so that a document stays held out when others are added; one language's rows are expected.
    """
    web = [values for values in rows if values["source"] == "web"]
    chosen = sorted(web, key=lambda values: (hashlib.sha256(values["text"].encode()).digest(), values["id"]))[:count]
    return {(values["source"], values["id"]) for values in chosen}
