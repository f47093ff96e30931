"""Articles of pages: the same text as Trafilatura's own, in each mode, whatever the markup holds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from lxml import html
from lxml.etree import XPath

from sea_lion.data.extract import EXTRACTORS, MAX_HTML_CHARACTERS, TooComplex, article, complexity, guarded, thin, tidy

SENTENCE = "Nelayan di pantai timur pulang membawa tangkapan yang lebih baik daripada bulan lalu. "
PARAGRAPHS = "".join(f"<p>{number}. {SENTENCE * 3}</p>" for number in range(9))
PAGE = f"""<!DOCTYPE html><html lang="id"><head><title>Nelayan</title><style>p {{ color: red }}</style>
<script>if (a < b) document.write("<p>{SENTENCE}</p>")</script></head><body>
<nav class="menu"><ul><li><a href="/">Beranda</a></li><li><a href="/berita">Berita</a></li></ul></nav>
<div id="cookie-banner" class="cookie">Kami memakai kuki.</div>
<article class="post-content"><h1>Nelayan pulang</h1>{PARAGRAPHS}<!-- iklan --><svg><title>logo</title></svg></article>
<div class="share-buttons"><a href="#">Bagikan</a></div><footer>Hak cipta</footer></body></html>"""
# runs where this process has changed nothing of Trafilatura
PLAIN = """
import json, sys, trafilatura
options = {"include_comments": False, "include_tables": False, "fast": True}
print(json.dumps([trafilatura.extract(page, **options) for page in json.load(sys.stdin)]))
"""


def variants() -> list[str]:
    """The page as different sites would make it."""
    listing = "".join(f'<li class="item"><a href="/{n}">Berita nomor {n} tentang nelayan dan laut</a></li>' for n in range(40))
    return [
        PAGE,
        PAGE.replace("article", "div").replace("post-content", "isi"),
        PAGE.replace("<article", f'<div class="sidebar related"><ul>{listing}</ul></div><article'),
        PAGE.replace("</article>", f"</article><div id='comments' class='comment-list'><p>{SENTENCE}</p></div>"),
        PAGE.replace("<p>3.", '<p style="display:none">3.').replace("<p>4.", '<p aria-hidden="true">4.'),
        PAGE.replace(PARAGRAPHS, f"<p>{SENTENCE * 2}</p>"),
        PAGE.replace(PARAGRAPHS, "").replace("<title>", '<script type="application/ld+json">{"@type": "NewsArticle", '
                     f'"articleBody": "{SENTENCE * 6}"}}</script><title>'),
        PAGE.replace("<head>", '<head><script src="a.js" />'),
        f'<?xml version="1.0" encoding="iso-8859-1"?>{PAGE}',
        PAGE.replace('<html lang="id">', '\n<html lang="id" />\n'),
        PAGE.replace("<p>", "<p>\x00\x0b"),
        f"<html><body>{PARAGRAPHS}</body></html>",
    ]  # fmt: skip


def test_the_text_is_that_of_plain_trafilatura() -> None:
    pages = variants()
    command = [sys.executable, "-c", PLAIN]
    plain = json.loads(subprocess.run(command, input=json.dumps(pages), capture_output=True, text=True, check=True).stdout)
    assert [article(page) for page in pages] == [tidy(text or "") for text in plain]
    assert all(text and len(text) > 100 for text in plain)


@pytest.mark.parametrize("mode", EXTRACTORS)
def test_every_mode_finds_the_article_alone(mode: str) -> None:
    text = article(PAGE, mode)
    assert text.split("\n")[-9:] == [f"{number}. {(SENTENCE * 3).strip()}" for number in range(9)]
    assert not {"Beranda", "color", "iklan", "logo"} & set(text.split())


@pytest.mark.parametrize("mode", EXTRACTORS)
def test_every_mode_gives_clean_text(mode: str) -> None:
    broken = PAGE.replace("Nelayan di", "Nela\x00yan\x07 cafe\u0301\u200b \ud800 di")
    text = article(broken, mode)
    assert "Nelayan caf\u00e9" in text
    assert text == tidy(text)
    assert text.isprintable() or set(filter(lambda sign: not sign.isprintable(), text)) == {"\n"}


@pytest.mark.parametrize("mode", EXTRACTORS)
@pytest.mark.parametrize("page", ["", " \n", "<!-- nothing -->", "<html></html>", "\x00", '<?xml version="1.0"?>'])
def test_a_page_without_text_has_no_article(page: str, mode: str) -> None:
    assert article(page, mode) == ""


@pytest.mark.parametrize(
    ("page", "left"),
    [
        ("a<script>x</script>b<STYLE type=c>x</Style >c<svg><path/></svg>d", "abcd"),
        ("a<!-- <script> -->b<!-->c<!--[if IE]> x <![endif]-->d<!-- x --!>e", "abcde"),
        ('<script type="application/ld+json">{"a": 1}</script>', '<script type="application/ld+json">{"a": 1}</script>'),
        ("a<script src='x'/>b<script>c</script>d", "a<script src='x'/>bd"),
        ("a<script>b<p>c", "a<script>b<p>c"),
        ("a<!-- b<style>c</style>d", "a<!-- bd"),
        ("a<script>'<!--'</script>b<!-- -->c", "abc"),
        ("<scripture>a</scripture>", "<scripture>a</scripture>"),
    ],
)
def test_what_no_extractor_reads_is_taken_out(page: str, left: str) -> None:
    assert thin(page.encode()).decode() == left


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        (f"<p {' '.join(f'a{n}=1' for n in range(300_000))}>", "too many attributes on one tag"),
        (f"<p {'a/' * 1_500}>", "too many attributes on one tag"),
        (f"{'x' * 999}<p {' a' * 1_100}", "too many attributes on one tag"),
        ("<a>link</a>" * 300_000, "too many tags"),
        ("<" * 5_000_000, "too many tags"),
        ("<div>" * 6_000 + "</div>" * 6_000, "too many open elements"),
        ("<p>word<br>" * 9_000, ""),
        ("<div><b>word</b></div>" * 9_000, ""),
        ("word " * 900_000, ""),
        (f"<img src='data:{'A' * 90_000}'>", ""),
        (PAGE, ""),
    ],
)
def test_what_a_parser_hangs_on_is_refused(page: str, fault: str) -> None:
    assert complexity(page.encode()) == fault


def test_a_page_that_is_too_large_is_refused() -> None:
    assert article("<p>a" + "x" * (MAX_HTML_CHARACTERS - 4)).startswith("ax")
    with pytest.raises(TooComplex, match="characters"):
        article("x" * (MAX_HTML_CHARACTERS + 1))


@pytest.mark.parametrize(
    ("unit", "fault"),
    [
        ("<script", "too many tags"),
        ("<script>", "too many tags"),
        ("<script/>", "too many tags"),
        ("<!--", "too many tags"),
        ("<style>x</style", "too many tags"),
        ("<script></script ", "too many tags"),
        ("<svg>", "too many tags"),
        ("</script>", "too many tags"),
        ("<p ", "too many tags"),
        ("<!-- -->", ""),
        ("<style></style>", ""),
        (">", ""),
        ("a ", ""),
    ],
)
def test_scans_end_on_what_quadratic_ones_take_hours_for(unit: str, fault: str) -> None:
    page = (unit * (4_000_000 // len(unit))).encode()
    assert complexity(thin(page)) == fault


def test_guarded_xpaths_choose_the_same_elements() -> None:
    trees = [html.document_fromstring(page.replace("\x00\x0b", "").encode()) for page in variants()[:8]]
    module = import_module("trafilatura.xpaths")
    source = Path(module.__file__ or "").read_text("utf-8")
    lists = [value for value in vars(module).values() if isinstance(value, list)]
    paths = [path for paths in lists for path in paths if "re:test" in path.path]
    assert sum("string(@" in path.path for path in paths) > 9, "this process runs guarded ones"
    assert "string(@" not in source, "Trafilatura itself does not guard"
    space = {"re": "http://exslt.org/regular-expressions"}
    chosen = 0
    for class_ in ("nav menu", "sidebar", "Byline", "entry-content", "comments-title", "", "x"):
        for attribute in ("class", "id", "style", "role"):
            page = f'<div><p>a</p><div {attribute}="{class_}"><p>b</p></div><section class="{class_}" id="x">c</section></div>'
            trees.append(html.fromstring(page))
    for path in (
        ".//*[re:test(@class, 'nav|menu|^side') or re:test(@id, 'x$', 'i')]",
        ".//div[re:test(@class, 'post') and @id]",
    ):
        plain, fast = XPath(path, namespaces=space), guarded(XPath(path, namespaces=space))
        assert fast.path != plain.path
        for tree in trees:
            assert fast(tree) == plain(tree)
            chosen += len(plain(tree))
    assert chosen > 20


def test_no_regular_expression_of_trafilatura_matches_a_missing_attribute() -> None:
    module = import_module("trafilatura.xpaths")
    lists = [value for value in vars(module).values() if isinstance(value, list)]
    patterns = [found for paths in lists for path in paths for found in re.findall(r"re:test\([^,]*, *'([^']*)'", path.path)]
    assert len(patterns) > 20
    assert not [pattern for pattern in patterns if re.search(pattern, "")]
