"""`sea-lion catalog …`: every question as a command, in five formats.

The command line of the catalog stands here and not in `cli`, because it knows nothing of the other areas. A question is one of
our own queries; what a person writes as SQL is answered by a confined child process (`confined`).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import confined, index, questions, shell
from .confined import Answer, Limits
from .errors import SeaLionError
from .questions import FUNNEL_GROUPS, TOKEN_GROUPS, Question
from .remote import store_at
from .store import Store
from .tables import FORMATS, write

NOT_IN_ORDER = 3
"""Exit code of a check that found something."""


def command(commands: Any, name: str, purpose: str, example: str) -> argparse.ArgumentParser:
    """A subcommand whose help ends with an example."""
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return made


def settings_of(values: Sequence[str]) -> dict[str, str]:
    """The settings of `--set NAME=VALUE`; raises SeaLionError for one without a value."""
    if not all("=" in value for value in values):
        raise SeaLionError("--set: write NAME=VALUE")
    return {name: value for name, _, value in (each.partition("=") for each in values)}


def add_catalog_flag(made: argparse.ArgumentParser) -> None:
    """`--catalog`: where the artifacts are."""
    made.add_argument(
        "--catalog",
        default=os.environ.get("SEA_LION_CATALOG", "artifacts"),
        metavar="PLACE",
        help="folder of the artifacts, or s3://bucket/prefix (default: $SEA_LION_CATALOG or artifacts)",
    )


def existing(place: str) -> Store:
    """The store of a catalog that is there; raises SeaLionError where there is none."""
    store = store_at(place)
    if not store.root.is_dir():
        raise SeaLionError(f"{place}: no catalog there; name one with --catalog, or make one with 'sea-lion run tiny'")
    return store


def add_catalog(commands: Any) -> Any:
    """Add the command; returns its subcommands, so that `cli` can add those that need another area."""
    catalog = command(commands, "catalog", "ask the catalog", "sea-lion catalog tokens --by language,source")
    asks = catalog.add_subparsers(required=True, metavar="QUESTION")
    _add_sql(asks)
    _add_counts(asks)
    _add_models(asks)
    return asks


def ask(asks: Any, name: str, purpose: str, example: str, function: Any, *, tabular: bool = True) -> argparse.ArgumentParser:
    """One question, with the flags that all have."""
    made = command(asks, name, purpose, example)
    add_catalog_flag(made)
    if tabular:
        made.add_argument("--format", choices=FORMATS, default="table", help="how to print it (default: table)")
        made.add_argument("--output", type=Path, metavar="FILE", help="write it there; needed for parquet on a terminal")
        made.add_argument(
            "--index",
            default=os.environ.get("SEA_LION_INDEX", ""),
            metavar="URL",
            help="ask a PostgreSQL index, as it was last refreshed (default: $SEA_LION_INDEX, else the catalog's own file)",
        )
    made.set_defaults(command=function)
    return made


def _add_counts(asks: Any) -> None:
    tokens = ask(
        asks, "tokens", "tokens of the corpora, planned by mixtures and trained on",
        "sea-lion catalog tokens --by language,source,crawl,stage --tokenizer tokenizer/tiny@1", _tokens,
    )  # fmt: skip
    tokens.add_argument("--by", default="language,source", help=f"columns, of: {', '.join(TOKEN_GROUPS)}")
    tokens.add_argument("--tokenizer", metavar="REF", help="only counts with this one")
    tokens.add_argument("--corpus", metavar="REF", help="only this corpus")
    tokens.add_argument("--language", help="only this language, ISO 639-3")
    funnel = ask(
        asks,
        "funnel",
        "what each step and rule removed",
        "sea-lion catalog funnel --by language,reason --language tha",
        _funnel,
    )
    funnel.add_argument("--by", default="stage,reason", help=f"columns, of: {', '.join(FUNNEL_GROUPS)}")
    funnel.add_argument("--corpus", metavar="REF", help="only this corpus")
    funnel.add_argument("--language", help="only what entered a step in this language; und before the gate")
    mixture = ask(
        asks, "mixture", "planned against consumed tokens, and epochs", "sea-lion catalog mixture mixture/tiny@1", _mixture
    )
    mixture.add_argument("ref", help="a mixture, or a run that trained on one: name@version or stage:NAME")


def _add_models(asks: Any) -> None:
    scores = ask(asks, "scores", "the latest scores", "sea-lion catalog scores --language tha --task heldout", _scores)
    for flag, what in (("model", "REF"), ("suite", "NAME"), ("language", "CODE"), ("task", "NAME")):
        scores.add_argument(f"--{flag}", metavar=what, help=f"only this {flag}")
    decisions = ask(
        asks, "decisions", "gate decisions, promotions and waivers", "sea-lion catalog decisions --verdict fail", _decisions
    )
    for flag, what in (("stage", "NAME"), ("model", "REF")):
        decisions.add_argument(f"--{flag}", metavar=what, help=f"only this {flag}")
    decisions.add_argument("--verdict", choices=("pass", "fail", "hold", "error"), help="only these")


def answer(arguments: argparse.Namespace, question: Question) -> int:
    """Print the answer to a question of our own."""
    if arguments.index:
        from . import postgres

        columns, rows = postgres.query(arguments.index, question.sql, question.parameters)
    else:
        columns, rows = index.query(existing(arguments.catalog), question.sql, question.parameters)
    write(columns, rows, arguments.format, arguments.output)
    return 0


def _tokens(arguments: argparse.Namespace) -> int:
    by = questions.columns(arguments.by, TOKEN_GROUPS)
    given = {"tokenizer": arguments.tokenizer, "corpus": arguments.corpus, "language": arguments.language}
    return answer(arguments, questions.tokens(by, **given))


def _funnel(arguments: argparse.Namespace) -> int:
    by = questions.columns(arguments.by, FUNNEL_GROUPS)
    return answer(arguments, questions.funnel(by, corpus=arguments.corpus, language=arguments.language))


def _mixture(arguments: argparse.Namespace) -> int:
    ref = str(existing(arguments.catalog).require(arguments.ref).ref)
    return answer(arguments, questions.mixture(ref))


def _scores(arguments: argparse.Namespace) -> int:
    given = {"model": arguments.model, "suite": arguments.suite, "language": arguments.language, "task": arguments.task}
    return answer(arguments, questions.scores(**given))


def _decisions(arguments: argparse.Namespace) -> int:
    return answer(arguments, questions.decisions(stage=arguments.stage, model=arguments.model, verdict=arguments.verdict))


# -- SQL ---------------------------------------------------------------------------------------------------------------------


def _add_sql(asks: Any) -> None:
    ls = ask(asks, "ls", "list the artifacts", "sea-lion catalog ls --kind checkpoint", _ls)
    ls.add_argument("--kind", help="only this kind")
    sql = ask(asks, "sql", "a query of your own, confined", "sea-lion catalog sql 'SELECT * FROM balance'", _sql)
    sql.add_argument("query", help="one statement (DuckDB), read only; docs/catalog.md lists tables and views")
    shell = ask(
        asks, "open", "a prompt for queries, or a pipe of them",
        "echo 'SELECT stage, model FROM stages;' | sea-lion catalog open", _open, tabular=False,
    )  # fmt: skip
    shell.add_argument("--format", choices=FORMATS[:4], default="table", help="how to print answers (default: table)")
    for made in (sql, shell):
        made.add_argument("--seconds", type=float, default=Limits().seconds, help="wall time of a query (default: %(default)s)")
        made.add_argument("--memory", type=int, default=2048, metavar="MIB", help="memory of a query (default: %(default)s)")
        made.add_argument("--rows", type=int, default=Limits().rows, help="rows of an answer (default: %(default)s)")


def _ls(arguments: argparse.Namespace) -> int:
    return answer(arguments, questions.artifacts(kind=arguments.kind))


def _limits(arguments: argparse.Namespace) -> Limits:
    if arguments.seconds <= 0 or arguments.memory < 64 or arguments.rows < 1:
        raise SeaLionError("--seconds and --rows must be above 0, --memory at least 64 (MiB)")
    return Limits(memory_bytes=arguments.memory << 20, seconds=arguments.seconds, rows=arguments.rows)


def _asked(arguments: argparse.Namespace, sql: str, parameters: list[str]) -> Answer:
    store = existing(arguments.catalog)
    return confined.ask(index.current(store, sql), store.root, sql, parameters, _limits(arguments))


def _sql(arguments: argparse.Namespace) -> int:
    if arguments.index:
        from . import postgres

        columns, rows = postgres.query(arguments.index, arguments.query, is_foreign=True, seconds=int(arguments.seconds) or 1)
        write(columns, rows, arguments.format, arguments.output)
        return 0
    found = _asked(arguments, arguments.query, [])
    write(found.columns, found.rows(), arguments.format, arguments.output, found.table)
    for note in shell.notes(found):
        print(note, file=sys.stderr)
    return 0


def _open(arguments: argparse.Namespace) -> int:
    existing(arguments.catalog)
    return shell.run(lambda sql, parameters: _asked(arguments, sql, parameters), form=arguments.format)
