"""HTML and SVG from nested calls, escaped by construction.

Text becomes markup only through `tag`, which escapes whatever is not `Html` already; so the words of a catalog, all of them
written by somebody else, cannot break out of their places. Control characters and those that turn the direction of the text
around are shown by their numbers: a name that reads as another one is an attack as well. A template language would escape, but
not that, and would be one more dependency.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TypeAlias

Child: TypeAlias = "str | int | float | Iterable[Child] | None"
"""What can stand inside a tag: text, numbers, `Html`, nothing, or several of these."""

UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]")
"""Characters that nobody sees but that change what is seen, or that no HTML may hold; not the joiners, which scripts need."""

VOID = frozenset({"br", "col", "hr", "img", "meta", "link"})


class Html(str):
    """Markup that needs no more escaping."""

    __slots__ = ()


def inside(*children: Child) -> Html:
    """The children one after the other, escaped."""
    return Html("".join(_text(child) for child in children))


def tag(name: str, /, *children: Child, **attributes: str | int | float | None) -> Html:
    """One element. Attributes with None are left out; a trailing `_` goes, other `_` become `-`; floats have one decimal.

    >>> tag("a", "<b>", href="#x", class_="quiet", title=None)
    '<a href="#x" class="quiet">&lt;b&gt;</a>'
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    written = "".join(f' {key}="{_escaped(value)}"' for key, value in given.items())
    return Html(f"<{name}{written}>" if name in VOID else f"<{name}{written}>{inside(*children)}</{name}>")


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, (str, int, float)):
        return _escaped(child)
    return "".join(_text(item) for item in child)


def _escaped(value: str | int | float) -> str:
    text = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
    return html.escape(visible(text))


def visible(text: str) -> str:
    r"""The text with every unseen character spelled out.

    >>> print(visible("a" + chr(0x202E) + "b" + chr(27)))
    a\u202eb\x1b
    """
    return UNSEEN.sub(lambda found: _spelled(ord(found[0])), text)


def _spelled(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
