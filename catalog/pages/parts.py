"""What the pages are put together from: sections, figures, tables, and words for codes, numbers and verdicts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..charts import MARKS
from ..languages import LANGUAGES, UNKNOWN
from ..markup import Child, Html, inside, tag
from ..tables import cell
from .source import Row, Source, asked

NUMBER = re.compile(r"[+−]?[\d.,]+%?")
"""A number that is written out already."""
LISTED = 60
"""Rows that a table shows; whatever is longer says how much it leaves out."""
LONGEST = 160
"""Characters of a name or a reason that are shown; the rest is in its tooltip, up to ten times as many."""


def language_name(code: str) -> str:
    """The language's English name, also of what is not a language."""
    named = {"code": "Source code", UNKNOWN: "Not yet identified", "": "All"}
    return LANGUAGES[code].name if code in LANGUAGES else named.get(code, code)


def language_order(codes: Iterable[str]) -> list[str]:
    """Codes in the platform's order of languages, the others after them by name."""
    present = set(codes)
    known = [code for code in LANGUAGES if code in present]
    return known + sorted(present - set(known))


def grouped(rows: Iterable[Row], *names: str) -> dict[tuple[str, ...], list[Row]]:
    """The rows by the values of some columns, in the order of their first coming."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] or "" for name in names), []).append(row)
    return groups


def section(anchor: str, heading: Child, intro: Child, *children: Child) -> Html:
    """One section of a page."""
    return tag("section", tag("h2", heading), tag("p", intro, class_="intro") if intro else None, *children, id=anchor)


def figure(heading: Child, chart: Child, *notes: Child, queries: Sequence[str]) -> Html:
    """A chart in its box: what it is about above it, notes and the queries behind it below."""
    caption = tag("figcaption", [tag("span", note) for note in notes if note], asked(*queries))
    return tag("figure", tag("h3", heading) if heading else None, chart, caption, class_="card")


def ref(name: str) -> Html:
    """An artifact's reference, or any name that a machine reads."""
    return tag("span", clipped(name), class_="ref")


def clipped(text: str) -> Html:
    """A text that may be too long, the rest of it in a tooltip."""
    if len(text) <= LONGEST:
        return inside(text)
    return tag("span", f"{text[:LONGEST]}…", title=text[: 10 * LONGEST])


def table(
    headings: Sequence[str], body: Sequence[Sequence[Child]], *, total: Sequence[Child] = (), listed: int = LISTED
) -> Html:
    """A table whose first column heads its rows; numbers are set to the right, thousands apart."""
    numeric = [any(_is_number(line[i]) for line in body) for i in range(len(headings))]

    def line(cells: Sequence[Child]) -> Html:
        first, *others = cells
        return tag("tr", tag("th", first, scope="row"), [_cell(value) for value in others])

    head = tag("tr", [tag("th", text, scope="col", class_="n" if numeric[i] else None) for i, text in enumerate(headings)])
    parts = [tag("thead", head), tag("tbody", [line(cells) for cells in body[:listed]])]
    shown = tag("div", tag("table", parts, tag("tfoot", line(total)) if total else None), class_="scroll", tabindex="0")
    return inside(shown, left_out(len(body), listed))


def _cell(value: Child) -> Html:
    if not _is_number(value):
        return tag("td", value)
    return tag("td", cell(value) if isinstance(value, (int, float)) else value, class_="n")


def _is_number(value: Child) -> bool:
    if isinstance(value, str):
        return NUMBER.fullmatch(value) is not None
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def left_out(number: int, shown: int) -> Html | None:
    """What to say when not everything is shown."""
    if number <= shown:
        return None
    return tag("p", f"{number - shown:,} more are left out here; the query gives them all.", class_="small quiet")


def folded(summary: Child, *children: Child, is_open: bool = False) -> Html:
    """A part that one opens to read."""
    return tag("details", tag("summary", summary), *children, open="" if is_open else None)


def tiles(figures: Sequence[tuple[str, str, Child]]) -> Html | None:
    """A few figures that matter most: what, how much, and a remark."""
    if not figures:
        return None
    return tag("dl", [tag("div", tag("dt", a), tag("dd", b, tag("small", c))) for a, b, c in figures], class_="figures")


def badge(verdict: str) -> Html:
    """A verdict as sign, word and colour."""
    return tag("span", f"{MARKS.get(verdict, '?')} {verdict}", class_=f"verdict {verdict if verdict in MARKS else 'error'}")


def empty(what: str, how: str) -> Html:
    """What a page says that has nothing to show yet."""
    return tag("div", tag("p", tag("strong", what)), tag("p", how, class_="quiet"), class_="card empty")


def completeness(source: Source, name: str) -> Html:
    """How much of an artifact's slots its counts rest on, as words beside them."""
    sets = [row for row in source.ask("completeness") if row["ref"] == name]
    planned, reported = (sum(row[column] for row in sets) for column in ("planned", "reported"))
    if not sets:
        return tag("span", "✓ complete: one record", class_="whole", title="Made in one piece: its record is written last")
    if planned == reported:
        return tag("span", f"✓ complete: {planned:,} of {planned:,} slots", class_="whole")
    return tag("span", f"◐ incomplete: {reported:,} of {planned:,} slots, so its counts are low", class_="partial")


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(4.2), duration(131), duration(7300)
    ('4.2 s', '2 min 11 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def brief(number: float) -> str:
    """A number in few characters.

    >>> brief(812), brief(64_300), brief(2_510_000), brief(1.2e12)
    ('812', '64.3 k', '2.51 M', '1.2 T')
    """
    for power, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= power:
            return f"{number / min(power, 1e3 if unit == 'k' else power):.3g} {unit}"
    return f"{number:,.0f}"


def signed(number: float, form: str = ",.0f") -> str:
    """A difference, with a sign that is a minus and not a hyphen.

    >>> signed(-1234.0), signed(3, ",.1f"), signed(0)
    ('−1,234', '+3.0', '0')
    """
    text = f"{abs(number):{form}}"
    is_none = not any(digit in text for digit in "123456789")
    return text if is_none else ("−" if number < 0 else "+") + text
