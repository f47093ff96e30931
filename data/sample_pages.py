"""The HTML of the sample crawl: three page layouts around a small article, as local news sites have them.

What surrounds an article (navigation, cookie banner, advert, share bar, related links, comments, newsletter, footer) is what an
extractor has to take away, so each layout carries most of it; its labels come from `sample/chrome/*.json`. The refused
alternative is real pages from a crawl: their text belongs to others.
"""

from __future__ import annotations

import hashlib
import html
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Chrome:
    """What a site in one language shows around its articles; an empty label leaves its block out."""

    site: str
    """Name of the site."""
    nav: tuple[str, ...]
    """Labels of the navigation."""
    footer: str
    """Line at the foot of every page."""
    byline: str = ""
    """Who wrote it, below the title."""
    share: str = ""
    """Label of the share bar."""
    related: str = ""
    """Heading of the related links."""
    related_links: tuple[str, ...] = ()
    """Headlines of other articles."""
    comments_title: str = ""
    """Heading of the comments."""
    comments: tuple[str, ...] = ()
    """What readers wrote."""
    cookie: str = ""
    """The cookie banner's sentence."""
    newsletter: str = ""
    """The newsletter form's sentence."""
    advert: str = ""
    """An advert set inside the article."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page to be rendered."""

    host: str
    """Domain, under `.example`."""
    path: str
    """Path and query, with the leading slash."""
    lang: str
    """Value of the `lang` attribute."""
    layout: str
    """A key of `LAYOUTS`."""
    title: str
    paragraphs: tuple[str, ...]
    """Plain text of the article, a block each."""
    chrome: Chrome
    date: str
    """Day of publication, ISO 8601."""
    charset: str = "utf-8"
    """The charset declared in the head."""
    key: str = ""
    """What decides the varying details (comments, related links); empty: the address."""

    @property
    def url(self) -> str:
        """Absolute address."""
        return f"https://{self.host}{self.path}"

    @property
    def detail_key(self) -> str:
        """What the varying details are chosen by."""
        return self.key or self.url


def read_chrome(path: Path) -> Chrome:
    """Read one language's labels."""
    return chrome_of(json.loads(path.read_text("utf-8")))


def chrome_of(labels: dict[str, str | list[str]]) -> Chrome:
    """The labels of a JSON object as a value; lists become tuples."""
    return Chrome(**{key: tuple(value) if isinstance(value, list) else value for key, value in labels.items()})  # type: ignore[arg-type]


def choice(key: str, among: int) -> int:
    """A number from 0 to `among - 1` that is the same for the same key on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]) % among


def page_html(page: Page) -> str:
    """The page as an HTML document."""
    body = LAYOUTS[page.layout](page)
    return f'<!DOCTYPE html>\n<html lang="{page.lang}">\n{_head(page)}\n{body}\n</html>\n'


def error_html(lang: str, chrome: Chrome) -> str:
    """What a site shows for an address it does not know."""
    return (
        f'<!DOCTYPE html>\n<html lang="{lang}">\n<head><meta charset="utf-8"><title>404 | {_text(chrome.site)}</title></head>\n'
        f'<body class="error404">\n{_nav(chrome, "nav")}\n<h1>404 Not Found</h1>\n<p>{_text(chrome.footer)}</p>\n'
        "</body>\n</html>\n"
    )


def listing_html(lang: str, chrome: Chrome, titles: list[str]) -> str:
    """A front page: headlines with links, no article."""
    cards = "".join(f'<li class="card"><a href="/n/{choice(title, 9000)}">{_text(title)}</a></li>' for title in titles)
    return (
        f'<!DOCTYPE html>\n<html lang="{lang}">\n<head><meta charset="utf-8"><title>{_text(chrome.site)}</title></head>\n'
        f'<body class="home">\n<header>{_nav(chrome, "main-nav")}</header>\n<ul class="cards">{cards}</ul>\n'
        f"<footer><p>{_text(chrome.footer)}</p></footer>\n</body>\n</html>\n"
    )


def _text(value: str) -> str:
    return html.escape(value, quote=False)


def _head(page: Page) -> str:
    """The head, fuller on newer layouts: an older site has no structured data."""
    title = html.escape(page.title)
    lines = [f'<meta charset="{page.charset}">', f"<title>{title} | {_text(page.chrome.site)}</title>"]
    if page.layout != "classic":
        lines += [
            '<meta name="viewport" content="width=device-width">',
            f'<meta property="og:title" content="{title}">',
            f'<link rel="canonical" href="{html.escape(page.url)}">',
        ]
    if page.layout == "portal":
        data = {
            "@context": "https://schema.org",
            "@type": "NewsArticle",
            "headline": page.title,
            "datePublished": f"{page.date}T07:30:00Z",
        }
        lines += [
            f'<script type="application/ld+json">{json.dumps(data, ensure_ascii=False)}</script>',
            "<script>window.dataLayer=window.dataLayer||[];dataLayer.push('page')</script>",
        ]
    else:
        lines += [
            f'<meta name="description" content="{html.escape(page.paragraphs[0][:90])}">',
            "<style>.ad{border:1px solid #ccc}nav li{display:inline}</style>",
        ]
    return "<head>\n" + "\n".join(lines) + "\n</head>"


def _nav(chrome: Chrome, name: str) -> str:
    links = "".join(f'<li><a href="/c/{i}">{_text(label)}</a></li>' for i, label in enumerate(chrome.nav, 1))
    return f'<nav class="{name}"><ul>{links}</ul></nav>'


def _some(values: tuple[str, ...], key: str) -> list[str]:
    """One to three of the values, starting at a place that the key decides."""
    if not values:
        return []
    start = choice(key, len(values))
    return [values[(start + i) % len(values)] for i in range(min(len(values), 1 + choice(key + "#", 3)))]


def _paragraphs(page: Page, advert_class: str) -> str:
    blocks = [f"<p>{_text(paragraph)}</p>" for paragraph in page.paragraphs]
    if page.chrome.advert:
        link = f'<a href="https://ads.example/click" rel="nofollow">{_text(page.chrome.advert)}</a>'
        advert = f'<div class="{advert_class}">{link}</div>'
        blocks.insert(1 + choice(page.detail_key, max(1, len(blocks) - 1)), advert)
    return "\n".join(blocks)


def _list(values: list[str], tag: str, name: str) -> str:
    items = "".join(f'<li><a href="/n/{choice(value, 9000)}">{_text(value)}</a></li>' for value in values)
    return f'<{tag} class="{name}">{items}</{tag}>'


def _related(page: Page, key: str = "related") -> str:
    if not page.chrome.related:
        return ""
    links = _list(_some(page.chrome.related_links, page.detail_key + key), "ul", "links")
    return f"<h3>{_text(page.chrome.related)}</h3>\n{links}"


def _comments(page: Page) -> str:
    if not page.chrome.comments:
        return ""
    said = [
        f'<li class="comment"><cite>user{choice(page.detail_key + text, 900) + 100}</cite><p>{_text(text)}</p></li>'
        for text in _some(page.chrome.comments, page.detail_key + "comments")
    ]
    return f"<h3>{_text(page.chrome.comments_title)}</h3>\n<ol>{''.join(said)}</ol>"


def _newsletter(page: Page) -> str:
    if not page.chrome.newsletter:
        return ""
    return (
        f'<form class="newsletter" action="/subscribe"><p>{_text(page.chrome.newsletter)}</p>'
        '<input type="email" name="mail"><button>OK</button></form>'
    )


def _cookie(page: Page) -> str:
    if not page.chrome.cookie:
        return ""
    return f'<div class="cookie" id="cookie-banner" role="dialog"><p>{_text(page.chrome.cookie)}</p><button>OK</button></div>'


def _share(page: Page) -> str:
    if not page.chrome.share:
        return ""
    links = '<a href="#s1">A</a> <a href="#s2">B</a>'
    return f'<div class="share social-buttons"><span>{_text(page.chrome.share)}</span> {links}</div>'


def _portal(page: Page) -> str:
    """A news portal of today: semantic elements."""
    return f"""<body class="portal">
{_cookie(page)}
<header class="site-header"><a class="logo" href="/">{_text(page.chrome.site)}</a>{_nav(page.chrome, "main-nav")}</header>
<main><article>
<header><h1>{_text(page.title)}</h1>
<p class="byline">{_text(page.chrome.byline)} <time datetime="{page.date}">{page.date}</time></p></header>
<div class="article-body">
{_paragraphs(page, "ad advert")}
</div>
{_share(page)}
</article>
<aside class="related">{_related(page)}</aside>
<section class="comments" id="comments">{_comments(page)}</section></main>
<footer class="site-footer"><p>{_text(page.chrome.footer)}</p></footer>
<script>document.querySelector('.cookie button').onclick=e=>e.target.parentNode.remove()</script>
</body>"""


def _blog(page: Page) -> str:
    """A weblog with a side bar, in the manner of the common publishing systems."""
    return f"""<body class="blog single-post">
<div id="page" class="site"><div id="masthead" class="site-header">
<p class="site-title"><a href="/">{_text(page.chrome.site)}</a></p>
{_nav(page.chrome, "menu")}</div>
<div id="content" class="site-content"><div id="post-{choice(page.detail_key, 9000)}" class="post hentry">
<h1 class="entry-title">{_text(page.title)}</h1>
<div class="entry-meta">{_text(page.chrome.byline)} | {page.date}</div>
<div class="entry-content">
{_paragraphs(page, "ad wp-ad")}
</div>
</div>
<div id="comments" class="comments-area">{_comments(page)}</div></div>
<div id="secondary" class="widget-area sidebar">{_related(page)}{_newsletter(page)}</div>
<div id="colophon" class="site-footer footer">{_text(page.chrome.footer)}</div></div>
{_cookie(page)}
<script src="/wp/js/embed.min.js" defer></script>
</body>"""


def _classic(page: Page) -> str:
    """An older site: tables and named boxes."""
    return f"""<body class="classic" bgcolor="#ffffff">
<table width="960" align="center" cellpadding="4"><tr><td colspan="2">
<b>{_text(page.chrome.site)}</b>{_nav(page.chrome, "topmenu")}</td></tr>
<tr><td valign="top" width="200"><div class="sidebar leftmenu">{_related(page, "left")}</div></td><td valign="top">
<div id="news-detail" class="article-content"><h1>{_text(page.title)}</h1>
<div class="author byline">{_text(page.chrome.byline)} ({page.date})</div>
{_paragraphs(page, "ad banner")}
</div>
{_share(page)}
<div class="comments comment-list">{_comments(page)}</div></td></tr>
<tr><td colspan="2"><div class="footer" id="footer">{_text(page.chrome.footer)}</div></td></tr></table>
<script>var hits={choice(page.detail_key, 90000)};document.cookie="seen=1";</script>
</body>"""


LAYOUTS = {"portal": _portal, "blog": _blog, "classic": _classic}
"""Name of a layout to the function that renders a page's body."""
