"""The report in a browser: headless Chromium opens every page, light and dark, as wide as a screen and as narrow as a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sea_lion.catalog.records import Score, Scorecard
from sea_lion.catalog.report import write_report
from sea_lion.catalog.store import Store
from sea_lion.eval.recipe import EvaluationRecipe

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; none is downloaded for a test")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--disable-default-apps",
)  # fmt: skip
PHONE, SCREEN = 390, 1280
SIDEWAYS = """[...document.querySelectorAll('body *')].filter(e =>
    e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, pre')).map(e => e.outerHTML.slice(0, 90))"""


@pytest.fixture(scope="module")
def folder(filled: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the whole lineage, two models side by side among its pages."""
    folder = tmp_path_factory.mktemp("browser") / "report"
    write_report(filled, folder, models=("checkpoint/tiny-llama-cpt@1", "stage:tiny-llama/final"))
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


class Tab:
    """A page that keeps what the browser said and asked for."""

    def __init__(self, chromium: Any, width: int = SCREEN, scheme: str = "light") -> None:
        self.context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.refused: list[str] = []
        self.page.on("requestfailed", lambda request: self.refused.append(request.failure))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, path: Path) -> Any:
        self.page.goto(path.as_uri())
        return self.page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, SCREEN])
def test_every_page_is_quiet_asks_nobody_and_fits(chromium: Any, folder: Path, width: int, scheme: str) -> None:
    tab = Tab(chromium, width, scheme)
    for path in sorted(folder.glob("*.html")):
        page = tab.open(path)
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        assert page.evaluate(SIDEWAYS) == [], path.name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
        assert page.title().endswith("SEA-LION") and page.locator("h1").count() == 1
        light = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] > 128")
        assert light == (scheme == "light"), path.name
    assert tab.said == []
    assert [url for url in tab.asked if not url.startswith(folder.as_uri())] == []
    tab.context.close()


@pytest.mark.parametrize("width", [PHONE, SCREEN])
def test_names_without_end_break_no_page(chromium: Any, filler: Any, width: int) -> None:
    long = "endless" * 60
    filler.data()
    filler.models()
    score = Score(task=long, language=long, metric=long, value=1.0, stderr=0.1, items=1, higher_is_better=True)
    for i, model in enumerate(("checkpoint/tiny-llama-it@1", "checkpoint/tiny-llama-base@1")):
        recipe = {"kind": "evaluation", "name": f"scorecard/z{i}", "model": model, "suite": "smoke", "heldout": "corpus/tiny@1"}
        body = Scorecard(model=model, suite=long, suite_fingerprint="f", harness="h", scores=(score,))
        filler.put(EvaluationRecipe, recipe | {"suite_files": [filler.file("suite.toml")]}, body)
    final, cpt = "checkpoint/tiny-llama-it@1", "checkpoint/tiny-llama-cpt@1"
    filler.gated("tiny-llama/late", final, cpt, "hold", shift=0, reason=long, waiver=long)
    write_report(filler.store, filler.base / "report")
    tab = Tab(chromium, width)
    for path in sorted((filler.base / "report").glob("*.html")):
        page = tab.open(path)
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        assert page.evaluate(SIDEWAYS) == [], path.name
    tab.context.close()


def test_every_link_leads_somewhere(chromium: Any, folder: Path) -> None:
    tab = Tab(chromium)
    targets = {(path.name, anchor) for path in folder.glob("*.html")
               for anchor in tab.open(path).evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")}  # fmt: skip
    names = {name for name, _ in targets} | {path.name for path in folder.glob("*.html")}
    links = 0
    for path in sorted(folder.glob("*.html")):
        for url in tab.open(path).evaluate("[...document.querySelectorAll('a')].map(a => a.href)"):
            file, _, anchor = url.removeprefix(f"{folder.as_uri()}/").partition("#")
            assert file in names and (not anchor or (file, anchor) in targets), f"{path.name}: {url}"
            links += 1
    assert links > 100
    page = tab.open(folder / "index.html")
    for word in ("Corpus", "Gates", "Queries", "Overview"):
        page.get_by_role("navigation").get_by_role("link", name=word).click()
        assert page.locator("nav [aria-current]").inner_text() == word
    page = tab.open(folder / "corpus.html")
    page.locator("figcaption a").first.click()
    assert page.url.endswith("questions.html#tokens") and page.locator("#tokens").is_visible()
    tab.context.close()


def test_the_policy_stops_what_a_page_would_load(chromium: Any, folder: Path, tmp_path: Path) -> None:
    """The pages' own policy holds: a script and an image that somebody got into a page neither run nor load."""
    text = (folder / "index.html").read_text("utf-8")
    attack = "<script>document.title = 'taken'</script><img src='http://127.0.0.1:9/x.png'>"
    (tmp_path / "index.html").write_text(text.replace("<main>", f"<main>{attack}"), "utf-8")
    tab = Tab(chromium)
    page = tab.open(tmp_path / "index.html")
    assert page.title() != "taken"
    assert tab.refused == ["csp"]
    assert any("Content Security Policy" in line for line in tab.said), "the test would notice a violation"
    tab.context.close()


def test_hover_words_and_tables_can_be_reached_without_a_mouse(chromium: Any, folder: Path) -> None:
    tab = Tab(chromium, PHONE)
    page = tab.open(folder / "evaluation.html")
    table = page.locator(".scroll").first
    assert table.get_attribute("tabindex") == "0"
    assert table.evaluate("e => e.scrollWidth > e.clientWidth"), "the table scrolls in its box"
    names = page.evaluate(
        "[...document.querySelectorAll('svg[role=img]')].map(e => e.querySelector('title')?.textContent || '')"
    )
    assert names and all(names)
    tab.context.close()


def test_paper_shows_everything(chromium: Any, folder: Path) -> None:
    tab = Tab(chromium)
    page = tab.open(folder / "gates.html")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    closed = page.locator("details:not([open])").first.locator("figure, p").first
    assert closed.evaluate("e => e.getBoundingClientRect().height") > 0, "folded parts are printed"
    tab.context.close()
