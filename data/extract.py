"""The article of a page, by Trafilatura 2.x, precision first.

Its own de-duplication is off: it remembers segments across pages, so that a page's text would depend on what the process read
before. Parsers hang in C code on pages of very many tags or attributes, which no signal interrupts: such pages are refused by a
linear count before they are parsed.
"""

from __future__ import annotations

import logging
import re
import unicodedata

from trafilatura import extract

MAX_HTML_CHARACTERS = 1_000_000
"""Practically all articles are smaller; 100 MB of HTML cost Trafilatura 2.6 GB."""
MAX_TAGS = 20_000
"""Opening angle brackets in a page."""
MAX_ATTRIBUTES = 5_000
"""Attributes of one tag, at most; libxml2 takes quadratic time: 0.2 s for these, 66 s for 100,000."""

# its complaints are about single pages, and these are counted
logging.getLogger("trafilatura").setLevel(logging.CRITICAL)

_XML = re.compile(r"\s*<\?xml[^>]{0,200}\?>")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2060\ufeff\ufffd\ud800-\udfff]")
_SPACES = re.compile(r"[ \t\u00a0]+")


class TooComplex(ValueError):
    """A page that a parser might hang on."""


def article(html: str) -> str:
    """The main text of a page, a paragraph a line, in NFC; empty when there is none.

    Raises TooComplex for a page that is not parsed, and whatever the parser raises.
    """
    if len(html) > MAX_HTML_CHARACTERS or html.count("<") > MAX_TAGS:
        raise TooComplex("too many characters or tags")
    if any(_attributes(part.partition(">")[0]) > MAX_ATTRIBUTES for part in html.split("<")):
        raise TooComplex("too many attributes on one tag")
    text = extract(
        _XML.sub("", html, count=1), favor_precision=True, include_comments=False, include_tables=False, deduplicate=False
    )
    return tidy(text or "")


def _attributes(tag: str) -> int:
    """A bound on the attributes of a tag: they are set apart by spaces, slashes or quotation marks behind a value."""
    return max(len(tag.split()), tag.count("="), tag.count("/")) if len(tag) > MAX_ATTRIBUTES else 0


def tidy(text: str) -> str:
    """Text in NFC, with single spaces, without empty lines, control characters and zero-width spaces.

    Zero-width joiners stay: Tamil and Burmese need them.
    """
    text = _CONTROLS.sub("", unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")))
    lines = (_SPACES.sub(" ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)
