"""Croissant 1.1 metadata of an exported corpus (https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html).

One FileSet stands for all shards and one manifest lists them with their digests: a FileObject for each of 100,000 shards would
be 24 MB of JSON that a validator reads for a minute and a half. Counts by language are a record set of their own, from the
index; the fields of the RAI vocabulary say what the recipe says and nothing that nobody recorded.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

import pyarrow as pa

from . import index
from .card_queries import answered, hub_name
from .licences import keys, licence_of, normalised
from .records import Artifact
from .store import Store

MANIFEST = "manifest.csv"
CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
RAI = "http://mlcommons.org/croissant/RAI/1.0"
FORMS = {"warc": "Web Scraping", "plan": "Web Scraping", "rows": "Secondary Data Analysis"}
"""Form of a source to RAI's kinds of collection."""
LANGUAGES = """SELECT s.language, CAST(sum(s.documents) AS BIGINT) AS documents,
    CAST(sum(s.characters) AS BIGINT) AS characters, CAST(sum(s.bytes) AS BIGINT) AS bytes
FROM shards s WHERE s.ref = $1 GROUP BY s.language ORDER BY s.language"""
STAGES = "SELECT DISTINCT step, stage FROM flow WHERE ref = $1 ORDER BY step"

File = tuple[str, int, str]
"""Path, bytes, sha256."""


def manifest(files: Iterable[File]) -> str:
    """The exported files with size and digest, as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("path", "bytes", "sha256"), *files])
    return text.getvalue()


def croissant(
    store: Store, artifact: Artifact, listed: str, columns: Sequence[tuple[str, str]], media_type: str, licence: str
) -> str:
    """The metadata as JSON-LD; `listed` is the manifest's text, `columns` name and type (`sc:Text`) of a document's fields."""
    with index.connect(store) as connection:
        _, languages = answered(connection, LANGUAGES, [str(artifact.ref)])
        stages = [str(stage) for _, stage in answered(connection, STAGES, [str(artifact.ref)])[1]]
    title = hub_name(artifact.ref)
    urls = [licence_of(key).url for key in keys(licence)]
    value = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [CONFORMS_TO, RAI],
        "name": title,
        "description": str(artifact.recipe.get("description", "")) or title,
        "version": artifact.ref.version,
        "license": urls[0] if len(urls) == 1 and urls[0] else normalised(licence),
        "datePublished": artifact.provenance.created[:10],
        "inLanguage": [str(code) for code, *_ in languages],
        **_responsible(artifact, stages),
        "distribution": [_manifest_object(listed), _shards(media_type)],
        "recordSet": [_documents(columns), _by_language(languages)],
    }
    return json.dumps(value, ensure_ascii=False, indent=1)


def column_type(kind: pa.DataType) -> str:
    """The data type of a column in schema.org's words."""
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    return "sc:Text" if pa.types.is_string(kind) else "sc:Integer" if pa.types.is_integer(kind) else "sc:Float"


def _manifest_object(listed: str) -> dict[str, Any]:
    content = listed.encode()
    return {
        "@type": "cr:FileObject", "@id": "manifest", "name": MANIFEST, "contentUrl": MANIFEST, "encodingFormat": "text/csv",
        "contentSize": f"{len(content)} B", "sha256": sha256(content).hexdigest(),
        "description": "Path, size and SHA-256 of every shard.",
    }  # fmt: skip


def _shards(media_type: str) -> dict[str, Any]:
    suffix = "parquet" if media_type.endswith("parquet") else "jsonl.gz"
    return {
        "@type": "cr:FileSet", "@id": "shards", "name": "shards", "encodingFormat": media_type,
        "includes": f"data/*/*/*.{suffix}", "description": f"The documents; {MANIFEST} lists the files.",
    }  # fmt: skip


def _documents(columns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field", "@id": f"documents/{name}", "name": name, "dataType": kind,
            "source": {"fileSet": {"@id": "shards"}, "extract": {"column": name}},
        }
        for name, kind in columns
    ]  # fmt: skip
    return {"@type": "cr:RecordSet", "@id": "documents", "name": "documents", "field": fields}


def _by_language(rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    names = ("language", "documents", "characters", "bytes")
    fields = [
        {
            "@type": "cr:Field", "@id": f"languages/{name}", "name": name,
            "dataType": "sc:Text" if name == "language" else "sc:Integer",
        }
        for name in names
    ]  # fmt: skip
    data = [{f"languages/{name}": value for name, value in zip(names, row, strict=True)} for row in rows]
    return {
        "@type": "cr:RecordSet", "@id": "languages", "name": "languages", "key": {"@id": "languages/language"},
        "description": "How much there is of each language (ISO 639-3; code: source code).", "field": fields, "data": data,
    }  # fmt: skip


def _responsible(artifact: Artifact, stages: Sequence[str]) -> dict[str, Any]:
    """The RAI fields that the record answers."""
    recipe = artifact.recipe
    sources = [source for source in recipe.get("source", []) if isinstance(source, dict)]
    crawls = sorted({str(source.get("crawl")) for source in sources if source.get("crawl")})
    said = [f"{source.get('name')}: {source.get('preset') or source.get('form')}" for source in sources]
    masked = "E-mail and IP addresses, telephone, identity and card numbers are masked where the patterns find them."
    return {
        "rai:dataCollection": "Sources: " + "; ".join(said) + (f". Crawls: {', '.join(crawls)}." if crawls else "."),
        "rai:dataCollectionType": sorted({FORMS.get(str(source.get("form")), "Others") for source in sources}),
        "rai:dataPreprocessingProtocol": list(stages),
        "rai:personalSensitiveInformation": [masked if recipe.get("mask_personal_data", True) else "Nothing is masked."],
        "rai:dataUseCases": ["Pre-training of language models"],
        "rai:dataLimitations": [
            "Languages are identified by machine; what each stage removed, and why, stands in the card.",
        ],
    }


CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "dct": "http://purl.org/dc/terms/", "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"}, "conformsTo": "dct:conformsTo",
    "description": {"@container": "@language"}, "name": {"@container": "@language"},
} | {
    term: f"cr:{term}"
    for term in (
        "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject", "fileProperty",
        "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path",
        "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField",
        "transform",
    )
}  # fmt: skip
"""The names that Croissant's specification gives to its terms."""
