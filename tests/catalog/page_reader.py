"""Reads a report's pages as a browser would, and insists that they are whole and load nothing."""

from __future__ import annotations

from html.parser import HTMLParser

from sea_lion.catalog.markup import VOID


class Checked(HTMLParser):
    """Reads a page, insists that every element is closed in order, and keeps what a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.elements: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        given = dict(attrs)
        assert len(given) == len(attrs), f"an attribute twice in <{tag}>"
        self.loads += [
            str(given[name]) for name in ("src", "srcset", "data", "xlink:href", "poster", "action") if name in given
        ]
        if tag == "link":
            self.loads.append(str(given.get("href")))
        if tag == "a":
            self.links.append(str(given.get("href")))
        if "id" in given:
            self.ids.append(str(given["id"]))
        assert not any(name.startswith("on") for name in given), "no script, in attributes neither"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def checked(pages: dict[str, str]) -> dict[str, Checked]:
    """The pages as a browser would read them; no link leads astray, no anchor is there twice."""
    read = {name: Checked(text) for name, text in pages.items()}
    for name, page in read.items():
        assert len(set(page.ids)) == len(page.ids), name
        assert page.loads == []
        for link in page.links:
            file, _, anchor = link.partition("#")
            assert (file or name) in read, f"{name} leads to {link}"
            assert not anchor or anchor in read[file or name].ids, f"{name} leads to {link}"
    return read
