"""The stages of the corpus pipeline as datatrove steps: each counts in a ledger what enters, leaves and is removed, and why.

A stage judges one document at a time; it may change it. The judgements themselves are plain functions in the modules beside
this one; what they measured goes into the document's metadata, and from there into the side table `documents`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from ..catalog.errors import CorruptInput
from ..catalog.languages import UNKNOWN
from .charset import decode
from .decontaminate import NgramIndex
from .extract import tidy
from .language import Classifier, claimed, identify, sampled
from .ledger import UNLISTED, Tally
from .planned import Where
from .privacy import KINDS, mask
from .quality import judge, too_short_or_long
from .sandbox import Sandbox
from .scripts import is_burmese, is_traditional, simplified, unicode_burmese
from .sources import Task, documents
from .thresholds import CODE, Thresholds
from .urls import UrlList
from .visible import visible_text
from .warc import payload

Verdict = bool | tuple[bool, str] | tuple[bool, str, str]
"""True to keep, (False, reason), or (False, reason, detail) to remove."""


class Stage(PipelineStep):  # type: ignore[misc]  # datatrove is untyped
    """A step that keeps or removes documents and counts both under the language that they entered with."""

    type = "filter"
    stage = ""
    """Its name in the ledger."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally
        self.name = self.stage

    @abstractmethod
    def judge(self, doc: Document) -> Verdict:
        """Whether to keep a document, and if not, why."""

    def run(self, data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Judge every document."""
        for doc in data:
            metadata = doc.metadata
            language, source = metadata["language"], metadata["source"]
            self.tally.add(self.stage, "in", source, language, metadata["bytes"])
            verdict = self.judge(doc)
            if verdict is True:
                self.tally.add(self.stage, "out", source, language, metadata["bytes"])
                yield doc
            else:
                reason, detail = (verdict[1], "".join(verdict[2:])) if isinstance(verdict, tuple) else (self.stage, "")
                self.tally.add(self.stage, "removed", source, language, metadata["bytes"], reason)
                if self.stage not in UNLISTED:
                    self.tally.list(_removal(doc, self.stage, language, reason, detail))


def _removal(doc: Document, stage: str, language: str, reason: str, detail: str) -> dict[str, Any]:
    metadata = doc.metadata
    known = {name: metadata[name] for name in ("source", "url", "crawl", "file", "offset", "bytes")}
    record = metadata.get("record")
    known |= {"length": metadata.get("length", 0), "digest": record.digest if record else metadata.get("digest", "")}
    return {"stage": stage, "language": language, "reason": reason, "detail": detail, **known}


class Read(PipelineStep):  # type: ignore[misc]  # datatrove is untyped
    """All records of a task, usable or not."""

    type, name = "reader", "records"

    def __init__(self, tally: Tally, task: Task, where: Where, refuses_bad_files: bool) -> None:
        super().__init__()
        self.tally, self.task, self.where, self.refuses_bad_files = tally, task, where, refuses_bad_files

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Read the records; a bad file is raised or noted, as the recipe says, and costs what follows in this file only."""
        for path in self.task.paths:
            try:
                yield from documents(replace(self.task, paths=(path,)), self.where, self.refuses_bad_files)
            except CorruptInput as error:
                if self.refuses_bad_files:
                    raise
                self.tally.fail(self.task.source.name, Path(path).name, str(error))


class Usable(Stage):
    """Drops records that hold no page: errors, redirections, images, what is damaged or too large."""

    stage = "read"

    def judge(self, doc: Document) -> Verdict:
        """Keep a record without a fault."""
        reason = doc.metadata["fault"]
        return (False, reason) if reason else True


class Gate(Stage):
    """Drops pages whose annotation names no wanted language, before anything of them is decoded."""

    stage = "gate"

    def __init__(self, tally: Tally, languages: Collection[str], uses_annotation: bool) -> None:
        super().__init__(tally)
        self.languages, self.uses_annotation = frozenset(languages), uses_annotation

    def judge(self, doc: Document) -> Verdict:
        """Label the document with the language that is expected; `und` where only its text can tell."""
        if given := doc.metadata.get("given"):
            doc.metadata["language"] = given
            is_wanted = given in self.languages or doc.metadata.get("is_declared", True)
            return True if is_wanted else (False, f"said_{given}")
        if "record" not in doc.metadata:
            return True
        if not self.uses_annotation:
            doc.metadata["claim"] = None
        language, reason = claimed(doc.metadata["claim"], self.languages)
        if reason:
            return False, reason
        doc.metadata["language"] = language
        return True


class Urls(Stage):
    """Drops pages whose domain or address is on a list."""

    stage = "urls"

    def __init__(self, tally: Tally, lists: Collection[UrlList]) -> None:
        super().__init__(tally)
        self.lists = list(lists)

    def judge(self, doc: Document) -> Verdict:
        """Keep what no list names."""
        url = doc.metadata["url"]
        reason = next((reason for urls in self.lists if (reason := urls.reason(url))), "") if url else ""
        return (False, reason, url) if reason else True


class Decode(Stage):
    """Turns a page's stored bytes into HTML."""

    stage = "decode"

    def judge(self, doc: Document) -> Verdict:
        """Keep what can be decoded; documents of other forms are text already. The document's id is known from here on."""
        record = doc.metadata.pop("record", None)
        if record is None:
            return True
        doc.id, doc.metadata["digest"] = record.id, record.digest
        content, reason = payload(record)
        if reason:
            return False, reason
        decoded = decode(content, record.content_type, record.charset)
        if decoded is None:
            return False, "undecodable"
        doc.text, doc.metadata["charset"], doc.metadata["is_page"] = decoded.text, decoded.charset, True
        return True


class Sample(Stage):
    """Drops pages without an annotation whose raw text is in no wanted language, before they are parsed."""

    stage = "sample"

    def __init__(self, tally: Tally, languages: Collection[str], classifier: Classifier, is_on: bool) -> None:
        super().__init__(tally)
        self.languages, self.classifier, self.is_on = frozenset(languages), classifier, is_on

    def judge(self, doc: Document) -> Verdict:
        """Label the document with the likely language."""
        if not self.is_on or doc.metadata["language"] != UNKNOWN or "is_page" not in doc.metadata:
            return True
        language, reason = sampled(visible_text(doc.text), self.languages, self.classifier)
        if reason:
            return False, reason
        doc.metadata["language"] = language
        return True


class Extract(Stage):
    """Turns a page into the text of its article; from here on, bytes are those of the text."""

    stage = "extract"

    def __init__(self, tally: Tally, sandbox: Sandbox) -> None:
        super().__init__(tally)
        self.sandbox = sandbox

    def judge(self, doc: Document) -> Verdict:
        """Keep pages that hold an article; whatever a page does to the parsers costs this page only."""
        if "is_page" in doc.metadata:
            doc.text, reason = self.sandbox.article(doc.text)
        else:
            doc.text, reason = (_encodable(doc.text) if doc.metadata["language"] == CODE else tidy(doc.text)), ""
        if reason or not doc.text:
            return False, reason or "no_article"
        doc.metadata["bytes"] = len(doc.text.encode())
        return True


def _encodable(text: str) -> str:
    """A text as it is, but for half surrogate pairs, which no UTF-8 holds."""
    return text.encode("utf-8", "replace").decode()


class Identify(Stage):
    """Labels a page with the language of its text and drops other languages and doubtful ones."""

    stage = "identify"

    def __init__(
        self,
        tally: Tally,
        languages: Collection[str],
        thresholds: Mapping[str, Thresholds],
        classifier: Classifier,
        zawgyi: str,
        traditional_chinese: str,
    ) -> None:
        super().__init__(tally)
        self.languages, self.thresholds, self.classifier = frozenset(languages), dict(thresholds), classifier
        self.zawgyi, self.traditional_chinese = zawgyi, traditional_chinese

    def judge(self, doc: Document) -> Verdict:
        """Keep wanted languages in the wanted scripts; a language that was given is believed."""
        metadata = doc.metadata
        if not metadata.get("given"):
            doc.text, was_zawgyi = unicode_burmese(doc.text)
            if was_zawgyi and self.zawgyi == "drop":
                return False, "zawgyi"
            found = identify(doc.text, metadata.get("claim"), self.classifier)
            metadata |= {"fasttext": found.label, "fasttext_score": found.label_score, "cld2": found.cld2}
            metadata["script"] = "zawgyi" if was_zawgyi else ""
            if found.language == "mya" and not is_burmese(doc.text):
                return False, "other_burmese_script"
            if (said := metadata.get("said")) and said != found.language and {said, found.language} != {"ind", "zsm"}:
                return False, f"said_{said}", found.language
            if found.language not in self.languages:
                return False, f"detected_{found.language}", f"{found.score:.3f}"
            if found.score < self.thresholds[found.language].language_score:
                return False, "low_language_score", f"{found.language} {found.score:.3f}"
            metadata |= {"language": found.language, "language_score": found.score}
        if metadata["language"] == "cmn" and self.traditional_chinese != "keep" and is_traditional(doc.text):
            if self.traditional_chinese == "drop":
                return False, "traditional_chinese"
            doc.text, metadata["script"] = simplified(doc.text), "traditional"
        metadata["bytes"] = len(doc.text.encode())
        return True


class Quality(Stage):
    """Drops texts that break a rule of their language; of texts that were not crawled, the length only."""

    stage = "quality"

    def __init__(self, tally: Tally, thresholds: Mapping[str, Thresholds]) -> None:
        super().__init__(tally)
        self.thresholds = dict(thresholds)

    def judge(self, doc: Document) -> Verdict:
        """Keep a text without a fault; what every rule measured is noted."""
        language = doc.metadata["language"]
        limits = self.thresholds[language]
        if doc.metadata.get("given"):
            reason = too_short_or_long(doc.text, limits)
            return (False, reason) if reason else True
        judged = judge(doc.text, language, limits)
        doc.metadata["rules"] = judged.measures
        return (False, judged.reason, f"{judged.value:g}") if judged.reason else True


class Contamination(Stage):
    """Drops documents that hold items of the evaluation suites."""

    stage = "contamination"

    def __init__(self, tally: Tally, ngrams: NgramIndex | None) -> None:
        super().__init__(tally)
        self.ngrams = ngrams

    def judge(self, doc: Document) -> Verdict:
        """Keep what shares no item with a suite."""
        found = self.ngrams.hits(doc.text) if self.ngrams else None
        return (False, found.reason, found.detail) if found else True


class Mask(Stage):
    """Masks personal data; removes nothing."""

    stage = "mask"

    def __init__(self, tally: Tally, is_on: bool) -> None:
        super().__init__(tally)
        self.is_on = is_on

    def judge(self, doc: Document) -> Verdict:
        """Mask, and note how often; in source code, a run of digits is no telephone, identity or card number."""
        if self.is_on:
            kinds = [kind for kind in KINDS if kind in ("email", "ip") or doc.metadata["language"] != CODE]
            masked = mask(doc.text, kinds, doc.metadata["language"])
            doc.text = masked.text
            doc.metadata |= {f"masked_{kind}s": count for kind, count in masked.counts.items()}
            doc.metadata["bytes"] = len(doc.text.encode())
        return True
