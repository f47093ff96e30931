"""The article of a page: its text, a paragraph a line, by Trafilatura 2.x or Resiliparse.

Trafilatura's fast mode is the default: on gold pages it equals precision mode in F1 at two thirds of the cost. The page reaches
it parsed and without what it would throw away (scripts, styles, drawings, comments, attributes that it never reads), and its
regular expressions are asked only about attributes that are there: the same text, a quarter sooner, where rewriting its rules
would have been faster and ours to keep. Its de-duplication is off: it remembers segments across pages, so that a page's text
would depend on what the process read before.

Parsers need quadratic time for some pages, inside C code that no exception interrupts. What a linear scan can tell is refused
here; `sandbox` bounds the rest.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable
from functools import partial
from importlib import import_module

from lxml import html as markup
from lxml.etree import ElementDefaultClassLookup, ParserError, XPath, strip_attributes
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree
from trafilatura import extract
from trafilatura.settings import Extractor

MAX_HTML_CHARACTERS = 5_000_000
"""Of a page as it comes; Common Crawl keeps 5 MiB of a page since 2025, and 1 MiB before."""
MAX_TAGS = 100_000
"""Opening angle brackets without scripts: 3 s for Trafilatura at worst. One real page in a hundred has over 5,000."""
MAX_ATTRIBUTES = 1_000
"""Attributes of one tag; libxml2 takes quadratic time: 0.1 s for 10,000, 66 s for 100,000."""
MAX_DEPTH = 5_000
"""Open elements at once; Resiliparse takes quadratic time: 0.4 s for these, 8.5 s for 20,000. libxml2 stops long before."""

# its complaints are about single pages, and these are counted
logging.getLogger("trafilatura").setLevel(logging.CRITICAL)

_XML_CONTROLS = bytes([*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F])
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2060\ufeff\ufffd\ud800-\udfff]")
_SPACES = re.compile(r"[ \t\u00a0]+")
_PROLOGUE = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!doctype[^>]*>\s*)?(<html[^<>]*/>)?", re.IGNORECASE)
_DROPPED = re.compile(rb"<(?:!--|(script|style|svg)\b[^<>]*>)", re.IGNORECASE)
_END = {name: re.compile(rb"</%s\s*>" % name, re.IGNORECASE) for name in (b"script", b"style", b"svg")} | {
    b"": re.compile(rb"--!?>")
}
_NESTING = re.compile(
    rb"<(/?)(?!(?:area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr|p|li|t[dhr]|d[td]|option|thead|tbody)\b)"
    rb"[a-z][^<>]*>",
    re.IGNORECASE,
)
# Trafilatura reads these for links, images and metadata only, and copies its tree, attributes and all, five times
_UNREAD = """
href src srcset data-src data-srcset sizes loading target rel onclick tabindex title alt width height content property value
name datetime itemtype itemscope data-id data-href aria-label aria-labelledby aria-controls aria-expanded
""".split()  # noqa: SIM905

_PARSER = markup.HTMLParser(collect_ids=False, default_doctype=False, encoding="utf-8", remove_comments=True, remove_pis=True)
_PARSER.set_element_class_lookup(ElementDefaultClassLookup(element=markup.HtmlElement))


class TooComplex(ValueError):
    """A page that a parser might hang on."""


def article(html: str, mode: str = "trafilatura") -> str:
    """The main text of a page, a paragraph a line, in NFC; empty when there is none.

    `mode` is one of EXTRACTORS. Raises TooComplex for a page that is not parsed, and whatever the parser raises.
    """
    if len(html) > MAX_HTML_CHARACTERS:
        raise TooComplex("too many characters")
    page = thin(html.encode("utf-8", "replace").translate(None, _XML_CONTROLS))
    if fault := complexity(page):
        raise TooComplex(fault)
    return tidy(EXTRACTORS[mode](page))


def thin(page: bytes) -> bytes:
    """A page without its scripts (but for those of linked data), styles, drawings and comments, as far as these are closed."""
    kept, start, position, unclosed = [], 0, 0, set()
    while found := _DROPPED.search(page, position):
        name, position = (found[1] or b"").lower(), found.end()
        if name in unclosed or found[0].endswith(b"/>") or b"ld+json" in found[0]:
            continue
        # the shortest comment is `<!-->`
        end = _END[name].search(page, position if name else position - 2)
        if end:
            kept.append(page[start : found.start()])
            start = position = end.end()
        else:
            unclosed.add(name)
    return b"".join([*kept, page[start:]])


def complexity(page: bytes) -> str:
    """What a parser might hang on in a page; empty for a page that is safe to parse."""
    tags = page.count(b"<")
    if tags > MAX_TAGS:
        return "too many tags"
    if _most_attributes(page) > MAX_ATTRIBUTES:
        return "too many attributes on one tag"
    if tags > MAX_DEPTH and _depth(page) > MAX_DEPTH:
        return "too many open elements"
    return ""


def _most_attributes(page: bytes) -> int:
    """A bound on the attributes of a tag, at most; below MAX_ATTRIBUTES it may be 0.

    Looks only where that many characters pass without a closing bracket; attributes are set apart by spaces, slashes or values.
    """
    most = start = 0
    while start < len(page) - MAX_ATTRIBUTES:
        end = page.rfind(b">", start, start + MAX_ATTRIBUTES)
        if end < 0:
            end = page.find(b">", start)
            tag = page[start : end if end > 0 else len(page)].partition(b"<")[2]
            most = max(most, len(tag.split()), tag.count(b"="), tag.count(b"/"))
            if end < 0:
                break
        start = end + 1
    return most


def _depth(page: bytes) -> int:
    """How many elements are open at once, at most; those that browsers close by themselves do not count."""
    depth = deepest = 0
    for found in _NESTING.finditer(page):
        depth = max(depth - 1, 0) if found[1] else depth + 1
        deepest = max(deepest, depth)
    return deepest


def _trafilatura(page: bytes, options: Extractor) -> str:
    prologue = _PROLOGUE.match(page)
    assert prologue is not None  # it matches nothing, too
    # an <html/> closed at once would end the page; libxml2 stumbles over some doctypes
    head = b"<html>" if prologue[1] else b""
    try:
        tree = markup.document_fromstring(head + page[prologue.end() :], parser=_PARSER)
    except ParserError:  # there is no element at all
        return ""
    strip_attributes(tree, *_UNREAD)
    return extract(tree, options=options) or ""


def _resiliparse(page: bytes) -> str:
    tree = HTMLTree.parse_from_bytes(page, "utf-8")
    return str(extract_plain_text(tree, main_content=True, list_bullets=False, alt_texts=False))


EXTRACTORS: dict[str, Callable[[bytes], str]] = {
    "trafilatura": partial(_trafilatura, options=Extractor(fast=True, comments=False, tables=False)),
    "trafilatura-precision": partial(_trafilatura, options=Extractor(precision=True, comments=False, tables=False)),
    "resiliparse": _resiliparse,
}
"""Ways to find the article in the UTF-8 of a page: F1 .92, .92 and .85 on the 990 gold pages of Trafilatura's evaluation."""


def tidy(text: str) -> str:
    """Text in NFC, with single spaces, without empty lines, control characters and zero-width spaces.

    Zero-width joiners stay: Tamil and Burmese need them.
    """
    text = _CONTROLS.sub("", unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")))
    lines = (_SPACES.sub(" ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


_REGEXP = re.compile(r"re:test\((@[\w-]+), *('[^']*'(?:, *'i')?)\)")


def guarded(path: XPath) -> XPath:
    """The same XPath, its regular expressions asked about attributes that are there only, as text.

    lxml runs them in Python, for every element of a page. None of Trafilatura's matches the empty text of a missing attribute.
    """
    guarded_path = _REGEXP.sub(r"(\1 and re:test(string(\1), \2))", path.path)
    return XPath(guarded_path, namespaces={"re": "http://exslt.org/regular-expressions"})


def _guard_trafilatura() -> None:
    for paths in vars(import_module("trafilatura.xpaths")).values():
        if isinstance(paths, list):
            paths[:] = map(guarded, paths)
    baseline = import_module("trafilatura.baseline")
    vars(baseline)["BASIC_CLEAN_XPATH"] = guarded(baseline.BASIC_CLEAN_XPATH)


_guard_trafilatura()
