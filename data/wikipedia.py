"""Wikipedia's dumps: the text of every article of a `pages-articles` file, in bounded memory.

mwxml reads the XML and mwparserfromhell the wikitext; what is text, and what is apparatus, is decided here: tables, templates,
references, files and categories go, links and formatting leave their words. Expanding templates is refused: it takes a
MediaWiki. What a template would have said (a date, a pronunciation) is missing from the sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO
from xml.etree.ElementTree import ParseError

import mwparserfromhell
from mwparserfromhell.nodes import ExternalLink, Heading, HTMLEntity, Tag, Text, Wikilink
from mwparserfromhell.parser import ParserError
from mwxml import Dump
from mwxml.element_iterator import ElementIterator
from mwxml.errors import MalformedXML

ARTICLES = 0
"""Namespace of articles."""
APPARATUS = (-2, 6, 14)
"""Namespaces of links that show a picture or file a page: media, file, category."""
APPARATUS_NAMES = ("media", "file", "image", "category")
"""Their English names, which work in every language."""
DROPPED_TAGS = frozenset(
    {
        "categorytree", "ce", "chem", "gallery", "graph", "hiero", "imagemap", "indicator", "inputbox", "mapframe", "maplink",
        "math", "ref", "references", "score", "section", "style", "table", "templatedata", "templatestyles", "timeline",
    }
)  # fmt: skip
"""Tags whose content is no prose."""
BREAKS = frozenset({"br", "hr", "li", "dd", "dt", "p", "div"})
"""Tags that begin a line."""
HEADING = "\x00"
"""Marks a heading's line; XML cannot hold the character."""

_SWITCHES = re.compile(r"__[A-Z]{3,}__")
_EMPTIED = re.compile(r"[(（][\s,;:،、；，]*[)）]")
_VARIANTS = re.compile(r"-\{([^{}]*)\}-")


class NotADump(Exception):
    """XML that is no MediaWiki export, or is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """One page of a dump."""

    id: str
    """Page id."""
    title: str
    url: str
    """Address of the page."""
    language: str
    """The wiki's code: `th` for `thwiki`."""
    date: str
    """When this revision was written; empty when there is a fault."""
    text: str
    """Without markup; empty when there is a fault."""
    fault: str
    """`redirect`, `not_an_article`, `no_text`, `wikitext_error` or empty."""


def articles(stream: BinaryIO) -> Iterator[Article]:
    """Every page of a dump, in its order; raises NotADump where the XML ends to be one."""
    try:
        root = ElementIterator.from_file(stream)
        if root.tag != "mediawiki":
            raise NotADump(f"its root is <{root.tag}>, not <mediawiki>")
        dump = Dump.from_element(root)
        site = dump.site_info
        language = re.sub(r"wiki$", "", site.dbname or "").replace("_", "-")
        base = re.sub(r"[^/]*$", "", site.base or "")
        hidden = {str(space.name).lower() for space in site.namespaces or () if space.id in APPARATUS}
        for page in dump.pages:
            fault, text, date = _content(page, frozenset(hidden.union(APPARATUS_NAMES)))
            title = str(page.title or "")
            url = base + title.replace(" ", "_") if base else ""
            yield Article(id=str(page.id), title=title, url=url, language=language, date=date, text=text, fault=fault)
            root.element.clear()  # mwxml empties a page but keeps it: 60 million of them would fill the memory
    except (ParseError, MalformedXML, ValueError, AttributeError) as error:
        raise NotADump(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def _content(page: Any, hidden: frozenset[str]) -> tuple[str, str, str]:
    """The fault, the text and the date of a page."""
    if page.redirect:
        return "redirect", "", ""
    if page.namespace != ARTICLES:
        return "not_an_article", "", ""
    revision = next(iter(page), None)
    if revision is None or not revision.text:
        return "no_text", "", ""
    try:
        return "", article_text(revision.text, hidden), str(revision.timestamp or "")
    except (ParserError, RecursionError):
        return "wikitext_error", "", ""


def article_text(wikitext: str, hidden: frozenset[str] = frozenset(APPARATUS_NAMES)) -> str:
    """The text of an article; `hidden`: lower-case names of the namespaces whose links are left out.

    >>> article_text("'''Hanoi''' is the [[capital city|capital]] of [[Vietnam]].<ref>A map.</ref>{{stub}}")
    'Hanoi is the capital of Vietnam.'
    """
    parsed = mwparserfromhell.parse(_VARIANTS.sub(_mainland, wikitext), skip_style_tags=True)
    text = "".join(_plain(parsed, hidden)).replace("'''", "").replace("''", "")
    text = _EMPTIED.sub("", _SWITCHES.sub("", text))
    lines = [" ".join(line.split()) for line in text.split("\n")]
    kept: list[str] = []
    for line in lines:
        if line.startswith(HEADING) and kept and kept[-1].startswith(HEADING):
            kept.pop()  # nothing is left below the heading before
        if line.strip(HEADING):
            kept.append(line)
    while kept and kept[-1].startswith(HEADING):
        kept.pop()
    return "\n".join(line.strip(HEADING) for line in kept)


def _plain(code: Any, hidden: frozenset[str]) -> Iterator[str]:
    for node in code.nodes if code is not None else ():
        if isinstance(node, Text):
            yield str(node)
        elif isinstance(node, HTMLEntity):
            yield str(node.normalize())
        elif isinstance(node, Heading):
            yield f"\n{HEADING}{''.join(_plain(node.title, hidden)).strip()}\n"
        elif isinstance(node, Wikilink):
            prefix, colon, _ = str(node.title).partition(":")
            if not (colon and prefix.strip().lower() in hidden):
                yield from _plain(node.title if node.text is None else node.text, hidden)
        elif isinstance(node, ExternalLink):
            yield from _plain(node.title, hidden)
        elif isinstance(node, Tag):
            name = str(node.tag).strip().lower()
            if name in BREAKS:
                yield "\n"
            if name not in DROPPED_TAGS:
                yield from _plain(node.contents, hidden)


def _mainland(match: re.Match[str]) -> str:
    """What a reader of simplified Chinese sees of `-{…}-`, which lists a word's regional forms."""
    flags, bar, rules = match[1].rpartition("|")
    if bar and not set(flags.upper()) & {"A", "R"}:
        return "" if flags.strip().upper() in ("H", "T", "-") else rules
    forms = dict(rule.split(":", 1) for rule in rules.split(";") if ":" in rule)
    named = {code.strip(): form.strip() for code, form in forms.items()}
    return next((named[code] for code in ("zh-cn", "zh-hans", "zh-sg", "zh-my") if code in named), "" if named else rules)
