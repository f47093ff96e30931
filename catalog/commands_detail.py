"""`sea-lion catalog …`: single documents, differences, lineage, licences and cards."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from . import difference, documents, index, questions
from .commands import NOT_IN_ORDER, ask, existing
from .documents import Table
from .errors import SeaLionError
from .languages import language_code
from .store import Store
from .tables import render, visible, write


def add_detail(asks: Any) -> None:
    """Add the questions of this module."""
    _add_documents(asks)
    _add_diff(asks)
    _add_lineage(asks)
    _add_cards(asks)


def _add_documents(asks: Any) -> None:
    domains = ask(asks, "domains", "the domains with most documents", "sea-lion catalog domains --language tha", _domains)
    domains.add_argument("--language", required=True, help="ISO 639-3")
    domains.add_argument("--corpus", default="", metavar="REF", help="only this corpus")
    domains.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many rows (default: %(default)s)")
    examples = ask(
        asks, "documents", "example documents, with what each rule measured",
        "sea-lion catalog documents --language tha --where \"rules['letters'] < 0.8\" --limit 3", _documents,
    )  # fmt: skip
    for flag, what in (("corpus", "REF"), ("language", "CODE"), ("source", "NAME"), ("domain", "NAME"), ("crawl", "NAME")):
        examples.add_argument(f"--{flag}", default="", metavar=what, help=f"only of this {flag}")
    examples.add_argument("--where", default="", metavar="SQL", help="a condition of your own on the columns of documents")
    examples.add_argument("--limit", type=int, default=10, metavar="N", help="at most so many (default: %(default)s)")
    examples.add_argument("--text", type=int, default=0, metavar="N", help="show so many characters of each text")
    find = ask(asks, "find", "a document by its id or digest", "sea-lion catalog find 8e4fcd4f48afb71a4240a724d9b16ca3", _find)
    find.add_argument("hash", help="id of a document, or payload digest of its WARC record")


def _add_diff(asks: Any) -> None:
    diff = ask(
        asks, "diff", "what a corpus gained and lost against another", "sea-lion catalog diff corpus/a@1 corpus/a@2", _diff
    )
    diff.add_argument("a", help="name@version of the first corpus")
    diff.add_argument("b", help="name@version of the second")
    diff.add_argument("--by", default="language", help=f"columns, of: {', '.join(difference.GROUPS)}")
    diff.add_argument(
        "--what",
        choices=("counts", "tokens", "removals", "shards", "documents"),
        default="counts",
        help="what to compare; documents: each by its id, with the reason why it is gone (default: counts)",
    )


def _add_lineage(asks: Any) -> None:
    lineage = ask(
        asks, "lineage", "where an artifact comes from and what became of it",
        "sea-lion catalog lineage stage:tiny-llama/final --up", _lineage, tabular=False,
    )  # fmt: skip
    lineage.add_argument("ref", help="name@version or stage:NAME")
    lineage.add_argument("--format", choices=("text", "json", "openlineage", "svg"), default="text", help="default: text")
    lineage.add_argument("--output", type=Path, metavar="FILE", help="write it there")
    lineage.add_argument("--up", action="store_true", help="only what it was made from")
    lineage.add_argument("--down", action="store_true", help="only what was made from it")
    lineage.add_argument("--depth", type=int, metavar="N", help="at most so many steps away")
    lineage.add_argument("--warc", action="store_true", help="list the WARC files of each corpus")
    seen = ask(
        asks, "seen", "what a model saw of a language, after which filters, and who said it may ship",
        "sea-lion catalog seen stage:tiny-llama/final --language khm", _seen,
    )  # fmt: skip
    seen.add_argument("ref", help="a checkpoint, name@version or stage:NAME")
    seen.add_argument("--language", required=True, help="ISO 639-3")


def _add_cards(asks: Any) -> None:
    licences = ask(
        asks, "licences", "the licences an artifact inherits, and from whom",
        "sea-lion catalog licences stage:tiny-llama/final --claim MIT", _licences,
    )  # fmt: skip
    licences.add_argument("ref", help="name@version or stage:NAME")
    licences.add_argument("--claim", default="", metavar="EXPRESSION", help="whether this would be enough: exit 2 if it is not")
    card = ask(
        asks, "card", "the card of a corpus, a mixture or a model, or a check of one",
        "sea-lion catalog card stage:tiny-llama/final --output README.md", _card, tabular=False,
    )  # fmt: skip
    card.add_argument("ref", help="name@version or stage:NAME")
    card.add_argument("--output", type=Path, metavar="FILE", help="write it there")
    card.add_argument("--licence", default="", metavar="EXPRESSION", help="what it claims (default: all that is inherited)")
    card.add_argument("--check", type=Path, metavar="FILE", help="compare this card with the catalog: exit 3 if it differs")
    card.add_argument("--croissant", action="store_true", help="Croissant metadata of a corpus instead")


def _shown(arguments: argparse.Namespace, table: Table) -> int:
    write(table.columns, table.rows, arguments.format, arguments.output)
    for warning in table.warnings:
        print(visible(warning), file=sys.stderr)
    return 0


def _at_least(value: int, flag: str, least: int = 1) -> None:
    if value < least:
        raise SeaLionError(f"{flag} must be at least {least}, not {value}")


def _without_index(arguments: argparse.Namespace) -> Store:
    if arguments.index:
        raise SeaLionError("--index: this question reads document tables, which PostgreSQL does not have; leave the flag out")
    return existing(arguments.catalog)


def _corpus(store: Store, ref: str) -> str:
    if not ref:
        return ""
    artifact = store.require(ref)
    if artifact.kind != "corpus":
        raise SeaLionError(f"{artifact.ref} is a {artifact.kind}, not a corpus")
    return str(artifact.ref)


def _domains(arguments: argparse.Namespace) -> int:
    _at_least(arguments.limit, "--limit")
    store = _without_index(arguments)
    ref, language = _corpus(store, arguments.corpus), language_code(arguments.language)
    return _shown(arguments, documents.domains(store, language, ref=ref, limit=arguments.limit))


def _documents(arguments: argparse.Namespace) -> int:
    _at_least(arguments.limit, "--limit")
    _at_least(arguments.text, "--text", 0)
    store = _without_index(arguments)
    chosen = {name: getattr(arguments, name) for name in ("language", "source", "domain", "crawl", "where", "limit", "text")}
    return _shown(arguments, documents.documents(store, ref=_corpus(store, arguments.corpus), **chosen))


def _find(arguments: argparse.Namespace) -> int:
    table = documents.find(_without_index(arguments), arguments.hash)
    if not table.rows:
        raise SeaLionError(f"{arguments.hash}: no document has this id or digest")
    return _shown(arguments, table)


def _diff(arguments: argparse.Namespace) -> int:
    store = _without_index(arguments)
    a, b = _corpus(store, arguments.a), _corpus(store, arguments.b)
    if arguments.what == "documents":
        return _shown(arguments, difference.documents(store, a, b))
    by = questions.columns(arguments.by, difference.GROUPS)
    if arguments.what in ("counts", "tokens"):
        question = (difference.counts if arguments.what == "counts" else difference.tokens)(a, b, by)
    else:
        question = (difference.removals if arguments.what == "removals" else difference.shards)(a, b)
    columns, rows = index.query(store, question.sql, question.parameters)
    write(columns, rows, arguments.format, arguments.output)
    return 0


def _lineage(arguments: argparse.Namespace) -> int:
    from .lineage import resolved
    from .lineage_tree import lineage_json, lineage_svg, lineage_text
    from .openlineage import openlineage_events

    if arguments.depth is not None:
        _at_least(arguments.depth, "--depth")
    store = existing(arguments.catalog)
    ref = resolved(store, arguments.ref)
    both = arguments.up == arguments.down
    way: dict[str, Any] = {"up": both or arguments.up, "down": both or arguments.down, "depth": arguments.depth}
    if arguments.format == "svg":
        text = lineage_svg(store, ref, **way)
    elif arguments.format == "openlineage":
        text = "\n".join(openlineage_events(store, ref, with_files=arguments.warc, **way))
    else:
        text = (lineage_json if arguments.format == "json" else lineage_text)(store, ref, with_files=arguments.warc, **way)
    return _written(text, arguments.output)


def _written(text: str, output: Path | None) -> int:
    if output is None:
        print(text)
        return 0
    from .files import write_atomically

    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, text.rstrip("\n") + "\n")
    print(output)
    return 0


def _seen(arguments: argparse.Namespace) -> int:
    from .seen import seen_by

    answers = seen_by(_without_index(arguments), arguments.ref, arguments.language)
    if arguments.format == "table" and arguments.output is None:
        parts = [f"{answer.heading}\n\n{render(answer.columns, answer.rows, 'table')}" for answer in answers if answer.rows]
        print("\n\n".join(parts))
        return 0
    columns = ["question", *dict.fromkeys(name for answer in answers for name in answer.columns)]
    rows = [
        [dict(zip(answer.columns, row, strict=True), question=answer.heading).get(name) for name in columns]
        for answer in answers
        for row in answer.rows
    ]
    write(columns, rows, arguments.format, arguments.output)
    return 0


def _licences(arguments: argparse.Namespace) -> int:
    from .inheritance import check_claim, inherited, inherited_rows

    store = _without_index(arguments)
    if arguments.claim:
        check_claim(store, arguments.ref, arguments.claim)
    columns, rows = inherited_rows(inherited(store, arguments.ref))
    write(columns, rows, arguments.format, arguments.output)
    return 0


def _card(arguments: argparse.Namespace) -> int:
    from .card_check import check_card
    from .cards import card
    from .export import corpus_croissant

    store = existing(arguments.catalog)
    if arguments.check is not None:
        problems = check_card(store, arguments.check.read_text("utf-8", errors="replace"), arguments.ref)
        for problem in problems:
            print(visible(problem))
        print(f"{arguments.check}: {f'{len(problems)} differences' if problems else 'is what the catalog says'}")
        return NOT_IN_ORDER if problems else 0
    if arguments.croissant:
        return _written(corpus_croissant(store, store.require(arguments.ref), licence=arguments.licence), arguments.output)
    return _written(card(store, arguments.ref, arguments.licence), arguments.output)
