"""The dataset card of a corpus and its Croissant metadata, both made from the catalog: each number is the answer to a query.

Hand-written cards of this family of models have rows that do not add up. Here every table carries the SQL that made it, and the
totals are queries of their own, so a reader can check either against `sea-lion catalog sql`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from . import index
from .languages import LANGUAGES
from .records import Artifact, Corpus
from .store import Store
from .tables import render

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))
"""The hub's size categories, up to which each goes."""
HUB_LICENCES = {
    "Apache-2.0": "apache-2.0", "MIT": "mit", "CC0-1.0": "cc0-1.0", "CC-BY-4.0": "cc-by-4.0", "CC-BY-SA-4.0": "cc-by-sa-4.0",
    "CC-BY-SA-3.0": "cc-by-sa-3.0", "ODC-By-1.0": "odc-by",
}  # fmt: skip
"""SPDX to the hub's names; all others are `other` there, with the expression beside it."""

TABLES = {
    "Documents by language": """SELECT language, source, split, sum(documents)::BIGINT AS documents,
    sum(characters)::BIGINT AS characters, sum(bytes)::BIGINT AS bytes, count(*)::BIGINT AS shards
FROM shards WHERE ref = '{ref}' GROUP BY ALL ORDER BY ALL""",
    "Tokens by language": """SELECT tokenizer, language, sum(documents)::BIGINT AS documents, sum(tokens)::BIGINT AS tokens,
    sum(bytes)::BIGINT AS bytes, round(sum(bytes) / sum(tokens), 2) AS bytes_per_token
FROM token_counts WHERE corpus = '{ref}' GROUP BY ALL ORDER BY ALL""",
    "What was removed": """SELECT stage, language, reason, documents
FROM ledger WHERE ref = '{ref}' ORDER BY step, documents DESC, language, reason""",
    "Domains": """WITH counted AS (
    SELECT language, domain, count(*)::BIGINT AS documents, sum(bytes)::BIGINT AS bytes
    FROM documents WHERE ref = '{ref}' AND domain <> '' GROUP BY language, domain
)
SELECT * FROM counted QUALIFY row_number() OVER (PARTITION BY language ORDER BY documents DESC, domain) <= 5
ORDER BY language, documents DESC, domain""",
}
"""Heading to the query whose answer stands below it."""


def rows(store: Store, sql: str) -> list[dict[str, Any]]:
    """The rows of a query over the index, by column."""
    columns, found = index.query(store, sql)
    return [dict(zip(columns, values, strict=True)) for values in found]


def dataset_card(store: Store, artifact: Artifact, plan: str = "") -> str:
    """README.md of a corpus: the hub's YAML header, and tables that are each the answer to a query shown with it.

    `plan` is the file name of its crawl plan in the same folder, empty for none.
    """
    assert isinstance(artifact.body, Corpus)
    ref = str(artifact.ref)
    title = artifact.ref.name.removeprefix("corpus/")
    parts = [
        f"---\n{yaml.safe_dump(_header(artifact, title), sort_keys=False, allow_unicode=True)}---\n",
        f"# {title} {artifact.ref.version}\n",
        (str(artifact.recipe.get("description", "")) or f"The corpus `{ref}`.") + "\n",
        f"{artifact.body.documents_out:,} of {artifact.body.documents_in:,} records were kept. Licence: {artifact.licence}. "
        f"Fingerprint `{artifact.fingerprint}`, made {artifact.provenance.created} by commit {artifact.provenance.commit}.\n",
    ]
    for heading, sql in TABLES.items():
        columns, found = index.query(store, sql.format(ref=ref))
        if found:
            parts.append(f"## {heading}\n\n{render(columns, found, 'markdown')}\n\n```sql\n{sql.format(ref=ref)}\n```\n")
    if plan:
        command = f"sea-lion build --from-plan {plan} --mirror PLACE"
        parts.append(
            f"## Where it came from\n\n`{plan}` lists the crawl's records; `{command}` makes it anew from where they lie.\n"
        )
    recipe = json.dumps(_without_places(artifact.recipe), ensure_ascii=False, indent=1, sort_keys=True)
    parts.append(f"## Recipe\n\n```json\n{recipe}\n```\n")
    return "\n".join(parts)


def _without_places(value: Any) -> Any:
    """A recipe whose absolute file patterns are reduced to base names: where its maker keeps files is nobody's business.

    Patterns always stand in lists. The identity, which holds no place either, is refused: a digest for each of 90,000 files.
    """
    if isinstance(value, dict):
        return {key: _without_places(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [
            PurePosixPath(item).name if isinstance(item, str) and item[:1] == "/" else _without_places(item) for item in value
        ]
    return value


def _header(artifact: Artifact, title: str) -> dict[str, Any]:
    assert isinstance(artifact.body, Corpus)
    known = HUB_LICENCES.get(artifact.licence, "other")
    languages = sorted({shard.language for shard in artifact.body.shards})
    names = {"license_name": artifact.licence} if known == "other" else {}
    return {
        "pretty_name": title,
        "language": sorted({LANGUAGES[code].short for code in languages if code in LANGUAGES}),
        "license": known,
        **names,
        "task_categories": ["text-generation"],
        "size_categories": [_size(artifact.body.documents_out)],
        "configs": [_config(artifact.body, "default", "*", True)]
        + [_config(artifact.body, language, language, False) for language in languages],
    }


def _config(corpus: Corpus, name: str, language: str, is_default: bool) -> dict[str, Any]:
    splits = sorted({shard.split for shard in corpus.shards if language in ("*", shard.language)}, reverse=True)
    files = [{"split": split, "path": f"data/language={language}/source=*/{split}-*"} for split in splits]
    return {"config_name": name, "data_files": files} | ({"default": True} if is_default else {})


def _size(documents: int) -> str:
    return next((name for limit, name in SIZES if documents < limit), "10M<n<100M" if documents < 10**8 else "n>100M")


def croissant(artifact: Artifact, files: Sequence[tuple[str, int, str]], columns: Sequence[tuple[str, str]], form: str) -> str:
    """Croissant 1.0 metadata (http://mlcommons.org/croissant/1.0) of an exported corpus.

    `files` are path, bytes and sha256; `columns` name and Croissant data type (`sc:Text`); `form` is the files' media type.
    """
    title = artifact.ref.name.removeprefix("corpus/").replace("/", "-")
    shards = [
        {
            "@type": "cr:FileObject", "@id": path, "name": path, "contentUrl": path, "contentSize": f"{size} B",
            "encodingFormat": form, "sha256": digest,
        }
        for path, size, digest in files
    ]  # fmt: skip
    every = {
        "@type": "cr:FileSet", "@id": "shards", "name": "shards", "encodingFormat": form, "includes": "data/**",
        "containedIn": [{"@id": path} for path, _, _ in files],
    }  # fmt: skip
    fields = [
        {
            "@type": "cr:Field", "@id": f"documents/{name}", "name": name, "dataType": kind,
            "source": {"fileSet": {"@id": "shards"}, "extract": {"column": name}},
        }
        for name, kind in columns
    ]  # fmt: skip
    value = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": title,
        "description": str(artifact.recipe.get("description", "")) or title,
        "version": artifact.ref.version,
        "license": artifact.licence,
        "datePublished": artifact.provenance.created[:10],
        "distribution": [*shards, every],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "documents", "name": "documents", "field": fields}],
    }
    return json.dumps(value, ensure_ascii=False, indent=1)


CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "dct": "http://purl.org/dc/terms/", "rai": "http://mlcommons.org/croissant/RAI/",
    "conformsTo": "dct:conformsTo", "citeAs": "cr:citeAs", "column": "cr:column", "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract", "field": "cr:field", "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet", "format": "cr:format", "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath", "key": "cr:key", "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path",
    "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated",
    "replace": "cr:replace", "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField",
    "transform": "cr:transform",
}  # fmt: skip
"""The names that Croissant's specification gives to its terms."""
