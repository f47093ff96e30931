"""Licences as data: what each asks for (`licences.toml`), what an expression over them guarantees, and what several come to.

A derivative cannot claim more than its parents give: the result is the SPDX `AND` of all of them, sorted, each once. A recipe's
own `licence` is added, never put in their place. Whether one licence may stand for another is decided term by term, from the
table: two permissive licences that ask for the same are alike, a named term (Llama's, Gemma's, somebody's permission) is met
only by its own name, and what is not in the table is met only by naming it. A table of compatible pairs was refused: it grows
with the square of the licences, and says nothing of the ones that are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import as_file, files
from typing import Any, cast

from boolean import ParseError
from license_expression import ExpressionError, LicenseSymbol, LicenseWithExceptionSymbol, Licensing, get_spdx_licensing

from .recipes import read_table, read_toml
from .records import STRICT

NOASSERTION = "NOASSERTION"
PERMISSION = "LicenseRef-permission-"
_PERMISSION = re.compile(r"\b(?:used )?(?:with )?permission (?:of|from) (.+?)(?=\s+(?:AND|OR)\s|\)|$)", re.IGNORECASE)
_PLAIN = re.compile(r"[A-Za-z0-9.+-]+")
LONGEST = 20_000
"""Characters of an expression that are read; no honest one is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """One licence or set of terms."""

    __pydantic_config__ = STRICT

    key: str
    """SPDX id, else `LicenseRef-…`."""
    name: str
    """For people."""
    terms: tuple[str, ...]
    """What it asks for: keys of the table `terms`, with what or whom it names after a colon."""
    satisfies: tuple[str, ...] = ()
    """Terms of earlier versions that it may stand for."""
    hub: str = ""
    """Its name on the Hugging Face hub."""
    url: str = ""
    """Where its text is."""
    aliases: tuple[str, ...] = ()
    """How it is also written."""
    note: str = ""
    """What the terms do not say."""
    checked: bool = True
    """Whether its terms were read for this table, and not written down from memory."""


@cache
def _table() -> dict[str, Any]:
    with as_file(files(__package__ or "") / "licences.toml") as path:
        return read_toml(path)


@cache
def licences() -> dict[str, Licence]:
    """Every licence of the table by its key."""
    spdx = "https://spdx.org/licenses/{}.html"
    return {
        key: read_table(
            {"key": key, "url": "" if key.startswith(("LicenseRef-", NOASSERTION)) else spdx.format(key)} | fields,
            Licence,
            f"licences.toml: {key}",
        )
        for key, fields in _table().items()
        if key != "terms"
    }


def explained(term: str) -> str:
    """A term in words: `naming:Llama` is "a model's name begins with Llama"."""
    kind, _, of = term.partition(":")
    return str(_table()["terms"][kind]).format(of)


@cache
def _licensing() -> Licensing:
    shared = {"", "other"} | {key.casefold() for key in licences()}
    symbols = []
    for each in licences().values():
        names = {*each.aliases, *({each.hub} - shared - {alias.casefold() for alias in each.aliases})}
        shared.add(each.hub)
        symbols.append(LicenseSymbol(each.key, aliases=sorted(names)))
    return Licensing(symbols)


@cache
def _spdx_ids() -> dict[str, str]:
    return {key.casefold(): key for key in get_spdx_licensing().known_symbols if not key.startswith("LicenseRef-")}


def licence_of(key: str) -> Licence:
    """The licence of one key or name; one that the table does not have has terms that nobody knows."""
    known = licences().get(key)
    if known is not None:
        return known
    if key.startswith(PERMISSION):
        who = key.removeprefix(PERMISSION)
        return Licence(key=key, name=f"with permission of {who}", terms=(f"permission:{who}",))
    return Licence(key=key, name=key, terms=(f"unknown:{key}",))


def parsed(text: str) -> Any:
    """The expression as license-expression's tree of keys; None for no text. What is no expression is one unknown name."""
    text = text.strip()
    if not text:
        return None
    named = _PERMISSION.sub(lambda match: PERMISSION + _slug(match[1].casefold()), text)
    try:
        if len(named) > LONGEST:
            raise ExpressionError("too long")
        tree = _licensing().parse(named)
    except (ExpressionError, ParseError, RecursionError):
        return LicenseSymbol(_reference(text))
    return _with_keys(tree)


def _with_keys(tree: Any) -> Any:
    if isinstance(tree, LicenseWithExceptionSymbol):
        return LicenseWithExceptionSymbol(_with_keys(tree.license_symbol), tree.exception_symbol)
    if isinstance(tree, LicenseSymbol):
        return tree if tree.key in licences() else LicenseSymbol(_reference(tree.key))
    return type(tree)(*(_with_keys(part) for part in tree.args))


def _reference(name: str) -> str:
    """The key of a name that the table does not have: an SPDX id, a `LicenseRef-…` as it is, or one made of the name."""
    if name.startswith("LicenseRef-") and _PLAIN.fullmatch(name):
        return name
    return _spdx_ids().get(name.casefold()) or f"LicenseRef-{_slug(name)}"


def _slug(name: str) -> str:
    """A name in the characters of an SPDX reference; names that differ stay apart."""
    words = " ".join(name.split())
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-")[:60]
    is_whole = slug == words.replace(" ", "-")
    return slug if is_whole else f"{slug}-{sha256(words.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}".strip("-")


def keys(text: str) -> list[str]:
    """The licences that an expression names, each once, in its order."""
    tree = parsed(text)
    symbols = [tree] if isinstance(tree, LicenseSymbol) else tree.get_symbols() if tree is not None else []
    return list(dict.fromkeys(_key(symbol) for symbol in symbols))


def _key(symbol: Any) -> str:
    return cast(str, (symbol.license_symbol if isinstance(symbol, LicenseWithExceptionSymbol) else symbol).key)


def normalised(text: str) -> str:
    """An expression with the table's keys, `NOASSERTION` for none."""
    return NOASSERTION if (tree := parsed(text)) is None else str(tree.render())


def missing_terms(claim: str, given: str) -> list[str]:
    """The terms that `given` asks for and `claim` does not; of alternatives (`OR`) in `given` the one that lacks least."""
    return list(dict.fromkeys(_missing(parsed(claim), parsed(given))))


def _missing(claim: Any, given: Any) -> list[str]:
    if given is None:
        return []
    if isinstance(given, LicenseSymbol | LicenseWithExceptionSymbol):
        return [term for term in licence_of(_key(given)).terms if not _guarantees(claim, term)]
    parts = [_missing(claim, part) for part in given.args]
    return min(parts, key=len) if given.operator.strip() == "OR" else [term for part in parts for term in part]


def _guarantees(claim: Any, term: str) -> bool:
    """Whether everybody who keeps to the claim keeps to the term: of alternatives, each must hold it."""
    if claim is None:
        return False
    if isinstance(claim, LicenseSymbol | LicenseWithExceptionSymbol):
        licence = licence_of(_key(claim))
        return term in licence.terms or term in licence.satisfies
    parts = (_guarantees(part, term) for part in claim.args)
    return all(parts) if claim.operator.strip() == "OR" else any(parts)


def notices(given: Iterable[str]) -> list[str]:
    """What a model's page must say under these expressions, as `Built with Llama`."""
    terms = [term for text in given for key in keys(text) for term in licence_of(key).terms]
    return list(dict.fromkeys(term.partition(":")[2] for term in terms if term.startswith("built-with:")))


def conjuncts(text: str) -> list[str]:
    """The parts of an expression that all hold, as they are written; alternatives stay together, in parentheses."""
    if "(" not in text and " OR " not in text.upper():
        return [part.strip() for part in text.split(" AND ") if part.strip()]
    tree = parsed(text)
    parts = tree.args if getattr(tree, "operator", "").strip() == "AND" else [tree]
    return [f"({part.render()})" if getattr(part, "operator", "").strip() == "OR" else str(part.render()) for part in parts]


def combined_licence(own: str, inputs: Iterable[str]) -> str:
    """SPDX expression over the recipe's own licence and its inputs' ones.

    >>> combined_licence("", ["Apache-2.0", "CC-BY-4.0 AND Apache-2.0"])
    'Apache-2.0 AND CC-BY-4.0'
    """
    return " AND ".join(sorted({part for text in (own, *inputs) for part in conjuncts(text)})) or NOASSERTION
