"""A sample of a page's visible text without parsing it: enough to tell its language, a thirtieth of its article's price.

Two regular expressions, each of which matches within one tag or one run of text: the first finds what holds no visible text
(scripts, styles, comments), which is jumped over, the second finds prose between the jumps. Each search begins where the last
one ended, and an end that is not found once (`-->`, `</script`) is not looked for again, so hostile pages (`<` five million
times, comments that nobody closes) cost linear time. Expressions that span tags, like `<!--.*?-->`, take quadratic time on
these and were refused. Prose comes first: menus, often in another language, are made of short runs and count only where prose
is lacking.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from html import unescape
from itertools import islice

SAMPLE = 1000
"""Characters to ask for: a language shows in fewer, but a page may open with a notice in another one."""
MAX_READ = 1_000_000
"""Characters (or bytes) of a page that are looked at."""
MAX_LABELS = 300
"""Short runs that are looked at."""

_HIDDEN = "script|style|noscript|template|textarea|svg"
_OPENING = re.compile(rf"<(?:({_HIDDEN})(?=[\s/>])|!--)", re.IGNORECASE)
_ENDS = {name: re.compile(f"</{name}", re.IGNORECASE) for name in _HIDDEN.split("|")} | {"": re.compile("-->")}
_PROSE = re.compile(r">\s*+([^<>\s][^<>]{29,}+)")
"""A run of 30 characters and more."""
_LABEL = re.compile(r">\s*+([^<>\s][^<>]{0,28}+)(?=<)")


def visible_text(html: bytes | str, limit: int = SAMPLE) -> str:
    """At most `limit` characters of the text between a page's tags: entities decoded, whitespace collapsed, prose first.

    Bytes are taken for UTF-8 and what is not UTF-8 becomes U+FFFD: decode pages in other charsets first.
    """
    page = html[:MAX_READ].decode("utf-8", "replace") if isinstance(html, bytes) else html[:MAX_READ]
    sample: list[str] = []
    size = 0
    for pattern, most in ((_PROSE, limit), (_LABEL, MAX_LABELS)):
        for run in islice(_runs(page, pattern), most):
            sample.append(run[:limit])
            size += len(run)
            if size >= limit:
                break
        if size >= limit:
            break
    return unicodedata.normalize("NFC", " ".join(_without_entities(" ".join(sample)).split()))[:limit]


def _runs(page: str, pattern: re.Pattern[str]) -> Iterator[str]:
    for start, end in _shown(page):
        for found in pattern.finditer(page, start, end):
            yield found[1]


def _shown(page: str) -> Iterator[tuple[int, int]]:
    """The parts of a page outside what holds no visible text; what nobody closes is taken for closed."""
    start, position, unclosed = 0, 0, set[str]()
    while opening := _OPENING.search(page, position):
        name, position = (opening[1] or "").lower(), opening.end()
        if name in unclosed:
            continue
        if end := _ENDS[name].search(page, position):
            yield start, opening.start()
            position = end.end()
            start = position - (not name)  # a run begins behind a `>`
        else:
            unclosed.add(name)
    yield start, len(page)


def _without_entities(text: str) -> str:
    """Some pages spell all their text in character references."""
    if "&" not in text:
        return text
    try:
        return unescape(text)
    except ValueError:  # a reference of more digits than Python makes a number of
        return text
