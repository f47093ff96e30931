"""HTML and SVG from nested calls, escaped by construction.

Text becomes markup only through `tag`, which escapes whatever is not `Html` already; so the words of a catalog, all of them
written by somebody else, cannot break out of their places. A template language would escape as well, but would be one more
dependency for a single page.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

Child: TypeAlias = "str | int | float | Iterable[Child] | None"
"""What can stand inside a tag: text, numbers, `Html`, nothing, or several of these."""

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
    written = "".join(f' {key}="{html.escape(_number(value))}"' for key, value in given.items())
    return Html(f"<{name}{written}>" if name in VOID else f"<{name}{written}>{inside(*children)}</{name}>")


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, (str, int, float)):
        return html.escape(_number(child))
    return "".join(_text(item) for item in child)


def _number(value: str | int | float) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
