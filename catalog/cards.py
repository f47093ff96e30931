"""Cards from the catalog: what a hub shows about a corpus, a mixture or a model, with a query behind each number.

Hand-written cards of this family of models have rows that do not add up. Here every table carries the SQL that made it, totals
are part of the query, and no count stands outside a table, so that `card_check` can compare all of them with the catalog. The
only prose by hand is the recipe's description. A template language was refused: what varies is which questions have an answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import PurePosixPath
from typing import Any

import duckdb
import yaml

from . import index
from .card_queries import answered, grouped, hub_name, percent, provenance_questions, short_codes
from .card_tables import Question, prose, written
from .errors import SeaLionError
from .inheritance import Inherited, inherited, inherited_licence, naming_problems, refuse_claim
from .licences import explained, keys, licence_of, licences, normalised, notices
from .model_card import model_header, model_questions
from .records import Artifact, ArtifactRef, Checkpoint, Corpus, Mixture
from .store import Store
from .tables import visible

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))
"""The hub's size categories, up to which each goes."""


def card(store: Store, ref: str, licence: str = "", plan: str = "") -> str:
    """README.md of a corpus, a mixture or a checkpoint; `plan` is the file name of a corpus' crawl plan beside it.

    `licence` is the claim of the card; without one it is that of the model's latest promotion, else all that is inherited.
    Raises LicenceRefused for a claim that gives more than the parents do, SeaLionError for an artifact that has no card.
    """
    artifact = store.require(ref)
    given = inherited(store, str(artifact.ref))
    with index.connect(store) as connection:  # one state of the catalog for the whole card
        claim = licence or _promoted_claim(connection, str(artifact.ref))
        if claim:
            refuse_claim(artifact, claim, given)
        claim = claim or inherited_licence(given)
        header = card_header(connection, artifact) | licence_header(claim)
        sections = [_section(connection, question) for question in card_questions(connection, artifact)]
    header |= {"catalog_ref": str(artifact.ref), "catalog_fingerprint": artifact.fingerprint}
    parts = [f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n", *_opening(artifact)]
    parts += [section for section in sections if section]
    return "\n".join([*parts, licence_words(claim, given, artifact), *_words(artifact, plan), _recipe(artifact)])


def card_questions(connection: duckdb.DuckDBPyConnection, artifact: Artifact) -> list[Question]:
    """The tables that an artifact's card has; raises SeaLionError for an artifact that has no card."""
    ref = str(artifact.ref)
    if isinstance(artifact.body, Checkpoint):
        return model_questions(ref)
    if isinstance(artifact.body, Corpus):
        return corpus_questions(ref, _tokenizers(connection, ref))
    if isinstance(artifact.body, Mixture):
        return mixture_questions(ref)
    raise SeaLionError(f"{ref} is a {artifact.kind}; there are cards of a corpus, a mixture and a checkpoint")


def card_header(connection: duckdb.DuckDBPyConnection, artifact: Artifact) -> dict[str, Any]:
    """The hub's YAML header of a card, but for its licence."""
    if isinstance(artifact.body, Checkpoint):
        return model_header(connection, artifact, artifact.body)
    if isinstance(artifact.body, Corpus):
        return _corpus_header(artifact, artifact.body)
    return _mixture_header(artifact, artifact.body) if isinstance(artifact.body, Mixture) else {}


def _promoted_claim(connection: duckdb.DuckDBPyConnection, model: str) -> str:
    """The licence that a model's latest promotion claims for it, empty for none."""
    sql = """SELECT a.recipe->>'licence' FROM promotions p JOIN artifacts a USING (ref) WHERE p.model = $1
    ORDER BY a.created DESC, a.ref DESC LIMIT 1"""
    found = answered(connection, sql, [model])[1]
    return str(found[0][0] or "") if found else ""


def _opening(artifact: Artifact) -> list[str]:
    description = str(artifact.recipe.get("description", "")).strip()
    words = "\n".join(prose(line) for line in description.splitlines()) or f"The {artifact.kind} `{artifact.ref}`."
    return [f"# {hub_name(artifact.ref)} {artifact.ref.version}\n", f"{words}\n"]


def _section(connection: duckdb.DuckDBPyConnection, question: Question) -> str:
    columns, rows = answered(connection, question.sql)
    return written(question, columns, rows) if rows else ""


# -- tables -------------------------------------------------------------------------------------------------------------------


def corpus_questions(ref: str, tokenizers: Sequence[str]) -> list[Question]:
    """The tables of a corpus' card; its tokens once for each tokenizer that they were counted with."""
    its = f"t.ref = '{ref}'"
    counted = [
        Question(
            heading=f"Tokens with {tokenizer}",
            sql=grouped(
                "tokens", f"t.corpus = '{ref}' AND t.tokenizer = '{tokenizer}'", ("language", "source", "split"),
                ("documents", "bytes", "tokens"), more=percent("tokens", "language"),
            ),
        )
        for tokenizer in tokenizers
    ]  # fmt: skip
    return [
        Question(
            heading="Read and kept",
            sql=f"""SELECT CAST(a.body->>'documents_in' AS BIGINT) AS records_read,
    CAST(a.body->>'documents_out' AS BIGINT) AS documents_kept, c.slots_reported, c.slots_planned
FROM artifacts a JOIN complete c USING (ref) WHERE a.ref = '{ref}'""",
        ),
        Question(
            heading="Documents by language",
            sql=grouped(
                "shards", its, ("language", "source", "split"), ("documents", "characters", "bytes"),
                more="count(*) AS shards",
            ),
        ),
        Question(
            heading="Documents by crawl",
            sql=grouped("corpus_counts", f"{its} AND t.crawl <> ''", ("crawl", "language"), ("documents", "bytes")),
        ),
        Question(
            heading="Files it came from",
            sql=grouped("origins", its, ("source", "crawl"), ("documents", "bytes"), more="count(*) AS files"),
        ),
        *counted,
        Question(
            heading="What was removed",
            sql=grouped(
                "ledger", its, ("stage", "reason"), ("documents", "bytes"), more=percent("documents", "stage"),
                order="min(t.step), sum(t.documents) DESC, ",
            ),
        ),
        Question(heading="What was removed by language", sql=grouped("ledger", its, ("language",), ("documents", "bytes"))),
        Question(
            heading="Domains",
            about="The five with the most documents in each language.",
            sql=f"""SELECT language, domain, documents, bytes FROM (
    SELECT language, domain, count(*) AS documents, CAST(sum(bytes) AS BIGINT) AS bytes,
        row_number() OVER (PARTITION BY language ORDER BY count(*) DESC, domain) AS place
    FROM documents WHERE ref = '{ref}' AND domain <> '' GROUP BY language, domain
) AS counted WHERE place <= 5 ORDER BY language, place""",
        ),
        Question(
            heading="Files that could not be read",
            sql=f"SELECT source, count(*) AS files FROM failures WHERE ref = '{ref}' GROUP BY source ORDER BY source",
        ),
        *provenance_questions(ref),
    ]  # fmt: skip


def mixture_questions(ref: str) -> list[Question]:
    """The tables of a mixture's card."""
    its = f"t.ref = '{ref}'"
    return [
        Question(
            heading="Tokens planned by part",
            sql=grouped(
                "mixture_parts", its, ("part", "corpus", "language", "source"), ("tokens_planned", "sequences"),
                more=percent("tokens_planned", "part"),
            ),
        ),
        Question(
            heading="Tokens planned by language",
            sql=grouped("mixture_parts", its, ("language",), ("tokens_planned",), more=percent("tokens_planned", "language")),
        ),
        Question(
            heading="Epochs",
            sql=f"""SELECT corpus, language, source, CAST(max(tokens_available) AS BIGINT) AS tokens_available,
    sum(epochs) AS epochs
FROM mixture_parts WHERE ref = '{ref}' GROUP BY corpus, language, source ORDER BY corpus, language, source""",
        ),
        *provenance_questions(ref),
    ]  # fmt: skip


def _tokenizers(connection: duckdb.DuckDBPyConnection, ref: str) -> list[str]:
    found = answered(connection, "SELECT DISTINCT tokenizer FROM tokens WHERE corpus = $1 ORDER BY tokenizer", [ref])[1]
    return [str(ArtifactRef.parse(str(name))) for (name,) in found]  # a table's text goes into SQL: only as a reference


# -- licence -------------------------------------------------------------------------------------------------------------------


def licence_header(claim: str) -> dict[str, str]:
    """The hub's keys of a licence: its own name where it has one, else `other` and the expression."""
    named = keys(claim)
    one = licences().get(named[0]) if len(named) == 1 and normalised(claim) == named[0] else None
    if one and one.hub not in ("", "other"):
        return {"license": one.hub}
    link = {"license_link": one.url} if one and one.url else {}
    return {"license": "other", "license_name": normalised(claim)} | link


def licence_words(claim: str, given: Sequence[Inherited], artifact: Artifact) -> str:
    """What the card's licence asks for, in words, with the notices that the licences of its parents want to be shown."""
    lines = [f"## Licence\n\n{prose(normalised(claim))}\n"]
    for key in dict.fromkeys([*keys(claim), *(key for each in given for key in keys(each.licence))]):
        licence = licence_of(key)
        name = f"[{prose(licence.name)}]({licence.url})" if licence.url else prose(licence.name)
        asks = "; ".join(explained(term) for term in licence.terms) or "asks for nothing"
        lines.append(f"- {name} ({prose(key)}): {prose(asks)}. {prose(licence.note)}".rstrip())
    shown = notices(each.licence for each in given) if isinstance(artifact.body, Checkpoint) else []
    lines += [f"\n**{notice}**" for notice in shown]
    lines += [f"\n> {prose(problem)}" for problem in naming_problems(artifact, given)]
    return "\n".join(lines) + "\n"


# -- headers and words ---------------------------------------------------------------------------------------------------------


def _corpus_header(artifact: Artifact, corpus: Corpus) -> dict[str, Any]:
    languages = sorted({shard.language for shard in corpus.shards})
    return {
        "pretty_name": hub_name(artifact.ref),
        "language": short_codes(languages),
        "task_categories": ["text-generation"],
        "size_categories": [_size(corpus.documents_out)],
        "configs": [_config(corpus, "default", "*", True)] + [_config(corpus, code, code, False) for code in languages],
    }


def _mixture_header(artifact: Artifact, mixture: Mixture) -> dict[str, Any]:
    return {
        "pretty_name": hub_name(artifact.ref),
        "language": short_codes([part.language for part in mixture.parts]),
        "task_categories": ["text-generation"],
        "source_datasets": sorted({ArtifactRef.parse(part.corpus).name.removeprefix("corpus/") for part in mixture.parts}),
    }


def _config(corpus: Corpus, name: str, language: str, is_default: bool) -> dict[str, Any]:
    splits = sorted({shard.split for shard in corpus.shards if language in ("*", shard.language)}, reverse=True)
    files = [{"split": split, "path": f"data/language={language}/source=*/{split}-*"} for split in splits]
    return {"config_name": name, "data_files": files} | ({"default": True} if is_default else {})


def _size(documents: int) -> str:
    return next((name for limit, name in SIZES if documents < limit), "10M<n<100M" if documents < 10**8 else "n>100M")


def _words(artifact: Artifact, plan: str) -> list[str]:
    """What a card says without a table."""
    if isinstance(artifact.body, Checkpoint) and artifact.body.adapter_of:
        under = artifact.body.adapter_of
        return [f"## How to load it\n\nA LoRA adapter of `{under}`: `sea-lion merge` makes one model of both.\n"]
    if isinstance(artifact.body, Checkpoint):
        place = f"{artifact.ref.name}/{artifact.ref.version}"
        return [
            "## How to load it\n\nThe artifact's folder below the catalog's root is one that transformers reads: "
            f"`AutoModelForCausalLM.from_pretrained('{place}')`.\n"
        ]
    if not isinstance(artifact.body, Corpus):
        return []
    found = {shard.language for shard in artifact.body.shards}
    absent = [str(code) for code in artifact.recipe.get("languages", []) if code not in found]
    words = [f"## Limits\n\nWanted, and nothing was kept: {', '.join(absent)}.\n"] if absent else []
    if plan:
        command = f"sea-lion build --from-plan {plan} --mirror PLACE"
        words.append(
            f"## Where it came from\n\n`{plan}` lists the crawl's records; `{command}` makes it anew from where they lie.\n"
        )
    return words


def _recipe(artifact: Artifact) -> str:
    recipe = json.dumps(without_places(artifact.recipe), ensure_ascii=False, indent=1, sort_keys=True)
    made = f"Made on {date.fromisoformat(artifact.provenance.created[:10])} by commit {artifact.provenance.commit}."
    shown = visible(recipe, kept="\n")
    return f"## Recipe\n\n{made} Fingerprint `{artifact.fingerprint}`.\n\n```json\n{shown}\n```\n"


def without_places(value: Any) -> Any:
    """A recipe whose absolute file patterns are reduced to base names: where its maker keeps files is nobody's business.

    Patterns always stand in lists. The identity, which holds no place either, is refused: a digest for each of 90,000 files.
    """
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [
            PurePosixPath(item).name if isinstance(item, str) and item[:1] == "/" else without_places(item) for item in value
        ]
    return value
