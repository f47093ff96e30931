"""The frame around every page: head, navigation, foot; and the page of the questions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files

from ..markup import Child, Html, inside, tag
from .parts import section
from .questions import QUESTIONS

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
GENERATOR = "sea-lion report"
"""Says in a page's head what wrote it."""
NAMES = {
    "index.html": "Overview", "corpus.html": "Corpus", "mixture.html": "Mixture", "training.html": "Training",
    "merges.html": "Merges", "evaluation.html": "Evaluation", "gates.html": "Gates", "lineage.html": "Lineage",
    "compare.html": "Side by side", "questions.html": "Queries",
}  # fmt: skip
"""Page to what the navigation calls it, in its order."""


def framed(name: str, title: str, lead: Child, parts: Sequence[Html], present: Iterable[str]) -> str:
    """A whole page: `present` are the pages of the site, which the navigation leads to."""
    style = Html(files((__package__ or "").rpartition(".")[0]).joinpath("report.css").read_text("utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=GENERATOR),
        tag("title", f"{title} · SEA-LION"),
        tag("style", style),
    )
    links = [
        tag("a", word, href=page, aria_current="page" if page == name else None)
        for page, word in NAMES.items()
        if page in present
    ]
    top = tag(
        "header",
        tag("div", tag("p", "SEA-LION, on record", class_="eyebrow"), tag("nav", links, aria_label="Pages"), class_="bar"),
        tag("h1", title),
        tag("p", lead, class_="lead") if lead else None,
        _contents(parts),
        class_="top",
    )
    foot = tag(
        "footer",
        tag("p", "Written by sea-lion from the catalog’s index. Nothing in this page was loaded from elsewhere."),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', top, tag('main', parts), foot), lang='en')}\n"


def _contents(parts: Sequence[Html]) -> Html | None:
    """Links to the sections, when there are several."""
    found = [_link(part) for part in parts if part.startswith("<section")]
    return tag("ul", [tag("li", link) for link in found[:24]], class_="contents") if len(found) > 2 else None


def _link(part: Html) -> Html:
    anchor = part.split('id="', 1)[1].split('"', 1)[0]
    heading = part.split("<h2>", 1)[1].split("</h2>", 1)[0]
    return tag("a", Html(heading), href=f"#{anchor}")


def questions_page() -> list[Html]:
    """Every question with the statement that answers it and the command that asks it."""
    listed = [
        tag(
            "article",
            tag("h3", tag("a", name, href=f"#{name}", class_="ref"), " ", question.title),
            tag("pre", tag("code", question.command), tabindex="0"),
            id=name,
            class_="question",
        )
        for name, question in QUESTIONS.items()
    ]
    words = inside(
        "The statements run as they stand, on the index or in ",
        tag("code", "sea-lion catalog open"),
        "; add ",
        tag("code", "--format csv", class_="flag"),
        " for a file, ",
        tag("code", "--catalog DIR", class_="flag"),
        " for another catalog.",
    )
    return [section("questions", "The queries behind the figures", words, listed)]
