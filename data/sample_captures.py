"""What the sample crawl holds: every page of it with its bytes, its HTTP headers and what the crawler noted about it.

The 264 articles of `sample/articles` are each served once. Around them stands what a crawl really holds: duplicates, pages in
other languages, spam, legacy charsets, errors and files that are no pages. Each capture is named by its case, so that a test
can ask what became of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..catalog.languages import LANGUAGES
from .sample_pages import LAYOUTS, Chrome, Page, choice, chrome_of, error_html, listing_html, page_html, read_chrome

HOSTS = {
    "mya": ("myitkan.example", "ywathadin.example", "zaynayt.example"),
    "cmn": ("nanan-chenbao.example", "laojie.example", "xiaozhen.example"),
    "ind": ("pasar-harian.example", "kabar-desa.example", "tepi-sungai.example"),
    "khm": ("phum-thnaot.example", "tonle-news.example", "psar-chas.example"),
    "lao": ("khong-news.example", "ban-lao.example", "talat-sao.example"),
    "zsm": ("akhbar-kampung.example", "tepi-pantai.example", "warung-berita.example"),
    "fil": ("balitang-barangay.example", "tabing-ilog.example", "palengke.example"),
    "tam": ("oor-seithi.example", "kadarkarai.example", "santhai.example"),
    "tha": ("baansuan.example", "rimkhlong.example", "talat-chao.example"),
    "vie": ("tin-lang.example", "ben-song.example", "cho-que.example"),
    "eng": ("harbour-post.example", "hill-town.example", "riverside-weekly.example"),
}
"""Domains of each language's sites, in the order of `LAYOUTS`."""

CLD2_NAMES = {
    "mya": "BURMESE", "cmn": "Chinese", "ind": "INDONESIAN", "khm": "KHMER", "lao": "LAOTHIAN", "zsm": "MALAY",
    "fil": "TAGALOG", "tam": "TAMIL", "tha": "THAI", "vie": "VIETNAMESE", "eng": "ENGLISH", "fra": "FRENCH", "deu": "GERMAN",
    "swa": "SWAHILI", "spa": "SPANISH", "jpn": "Japanese", "rus": "RUSSIAN", "por": "PORTUGUESE", "kor": "Korean",
}  # fmt: skip
"""ISO 639-3 to the name that CLD2 prints."""

OTHER_SHORT = {"fra": "fr", "deu": "de", "swa": "sw", "spa": "es", "jpn": "ja", "rus": "ru", "por": "pt", "kor": "ko"}
"""Two-letter codes of the languages that are not ours."""

SPECIAL = {
    ("tha", 20): "tis620",
    ("cmn", 19): "gb18030",
    ("vie", 19): "bad_byte",
    ("vie", 21): "metadata_names_french",
    ("ind", 10): "no_metadata",
    ("lao", 9): "truncated",
}
"""Articles (language, row from 0) that are served in an unusual way."""

EXACT_DUPLICATES = (("cmn", 5), ("ind", 5), ("tam", 7), ("tha", 9), ("vie", 11), ("eng", 13))
"""Articles that are served twice, word for word."""

CHANGED_WORDS = {
    "mya": ("မနက်", "ညနေ"), "cmn": ("早上", "清晨"), "ind": ("pagi", "sore"), "khm": ("ព្រឹក", "ល្ងាច"), "lao": ("ເຊົ້າ", "ແລງ"),
    "zsm": ("pagi", "petang"), "fil": ("umaga", "hapon"), "tam": ("காலை", "மாலை"), "tha": ("เช้า", "เย็น"),
    "vie": ("sáng", "chiều"), "eng": ("morning", "evening"),
}  # fmt: skip
"""The word that a near duplicate has changed: morning to evening."""

NEAR_DUPLICATES = {language: (1, 2) if language in ("ind", "tha", "vie") else (1,) for language in CHANGED_WORDS}
"""Which of the articles that hold the word (counted from 0) are served again with it changed."""

LISTINGS = ("mya", "khm", "fil", "eng")
"""Languages with a front page in the crawl."""

JPEG = bytes.fromhex(
    "ffd8ffe000104a46494600010100000100010000ffdb00430050373c463c32504641465a55505f78c882786e6e78f5afb991c8" + "ff" * 42
    + "c0000b080008000801011100ffc40014000100000000000000000000000000000000ffc4001410010000000000000000000000000000"
    "0000ffda0008010100003f003fffd9"
)  # fmt: skip
"""A grey square of 8 by 8 pixels."""

UTF8 = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """One fetch: the answer and what the crawler noted about it."""

    url: str
    case: str
    """`article`, `exact_duplicate`, `spam` ...: why it is in the crawl."""
    language: str
    """Language of the text, ISO 639-3, whatever the metadata say."""
    payload: bytes
    """Body of the answer."""
    status: str = "200 OK"
    content_type: str = UTF8
    """HTTP header; its media type is also the identified payload type."""
    noted_language: str | None = None
    """What `languages-cld2` names, None: no such line (no HTML page)."""
    noted_charset: str = "UTF-8"
    """What `charset-detected` names."""
    has_metadata: bool = True
    """Whether a metadata record follows."""
    is_truncated: bool = False
    """Whether the crawler cut the body at its limit."""
    location: str = ""
    """Where a redirection leads."""
    text_bytes: int = 0
    """UTF-8 bytes of the visible text, about."""
    original: str = ""
    """Address of the page that this one repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The texts that the crawl is made of."""

    articles: dict[str, list[dict[str, Any]]]
    """Language to its articles: topic, title, paragraphs."""
    chrome: dict[str, Chrome]
    """Language to the labels of its sites."""
    strays: dict[str, list[dict[str, Any]]]
    """`other_languages`, `spam`, `short`: the rows of that file."""


def read_sample(folder: Path) -> Sample:
    """Read the texts below the package's `data/sample`."""
    return Sample(
        articles={language: _rows(folder / "articles" / f"{language}.jsonl") for language in LANGUAGES},
        chrome={language: read_chrome(folder / "chrome" / f"{language}.json") for language in LANGUAGES},
        strays={path.stem: _rows(path) for path in sorted((folder / "strays").glob("*.jsonl"))},
    )


def all_captures(sample: Sample) -> list[Capture]:
    """Every capture of the crawl, in the order in which they were fetched."""
    captures = [
        *_article_captures(sample),
        *_exact_duplicates(sample),
        *_near_duplicates(sample),
        *_other_languages(sample),
        *_spam(sample),
        *_short(sample),
        *_listings(sample),
        *_no_articles(sample),
    ]
    assert len({capture.url for capture in captures}) == len(captures), "an address occurs twice"
    return sorted(captures, key=lambda capture: (choice(capture.url, 1 << 32), capture.url))


def cld2_codes(language: str) -> tuple[str, str, str]:
    """CLD2's short code, ISO 639-3 code and name of a language."""
    if language in LANGUAGES:
        ours = LANGUAGES[language]
        return ours.short, ours.cld2, CLD2_NAMES[language]
    return OTHER_SHORT[language], language, CLD2_NAMES[language]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _article_page(sample: Sample, language: str, row: int, site: int | None = None) -> Page:
    article = sample.articles[language][row]
    site = choice(f"{language}/{row}", len(LAYOUTS)) if site is None else site % len(LAYOUTS)
    layout = list(LAYOUTS)[site]
    month, day = 1 + choice(f"{language}{row}month", 3), 1 + choice(f"{language}{row}day", 28)
    paths = {
        "portal": f"/2024/{month:02}/{article['topic']}-{row + 101}.html",
        "blog": f"/{article['topic']}/{row + 1}/",
        "classic": f"/news.php?id={1000 + 7 * row}&cat={article['topic']}",
    }
    return Page(
        host=HOSTS[language][site],
        path=paths[layout],
        lang=cld2_codes(language)[0],
        layout=layout,
        title=article["title"],
        paragraphs=tuple(article["paragraphs"]),
        chrome=sample.chrome[language],
        date=f"2024-{month:02}-{day:02}",
    )


def _text_bytes(page: Page) -> int:
    shown = (
        page.title,
        *page.paragraphs,
        *page.chrome.nav,
        *page.chrome.comments,
        *page.chrome.related_links,
        page.chrome.footer,
    )
    return sum(len(text.encode()) for text in shown)


def _capture(page: Page, case: str, language: str, original: str = "") -> Capture:
    return Capture(
        url=page.url,
        case=case,
        language=language,
        payload=page_html(page).encode(),
        noted_language=language,
        text_bytes=_text_bytes(page),
        original=original,
    )


def _article_captures(sample: Sample) -> Iterator[Capture]:
    for language, articles in sample.articles.items():
        for row in range(len(articles)):
            page = _article_page(sample, language, row)
            case = SPECIAL.get((language, row), "article")
            yield _unusual(page, case, language) if case != "article" else _capture(page, case, language)


def _unusual(page: Page, case: str, language: str) -> Capture:
    """An article served as its case says."""
    capture = _capture(page, case, language)
    if case == "tis620":
        payload = page_html(replace(page, charset="tis-620")).encode("tis-620", "xmlcharrefreplace")
        return replace(capture, payload=payload, content_type="text/html; charset=TIS-620", noted_charset="TIS-620")
    if case == "gb18030":  # declared in the head only
        payload = page_html(replace(page, charset="gb18030")).encode("gb18030")
        return replace(capture, payload=payload, content_type="text/html", noted_charset="GB18030")
    if case == "bad_byte":
        at = _place(capture.payload, page.paragraphs[0], 0.5)
        return replace(capture, payload=capture.payload[:at] + b"\xff" + capture.payload[at:])
    if case == "truncated":
        at = _place(capture.payload, page.paragraphs[-1], 0.7)
        return replace(capture, payload=capture.payload[: at + 1], is_truncated=True)
    if case == "metadata_names_french":
        return replace(capture, noted_language="fra")
    assert case == "no_metadata", case
    return replace(capture, has_metadata=False)


def _place(payload: bytes, paragraph: str, share: float) -> int:
    """Where in the payload a multi-byte character of the paragraph begins, about `share` of the way through it."""
    start = payload.index(paragraph.encode())
    middle = next(i for i in range(int(len(paragraph) * share), len(paragraph)) if len(paragraph[i].encode()) > 1)
    return start + len(paragraph[:middle].encode())


def _exact_duplicates(sample: Sample) -> Iterator[Capture]:
    for number, (language, row) in enumerate(EXACT_DUPLICATES):
        page = _article_page(sample, language, row)
        same_site = replace(page, path=page.path + ("&" if "?" in page.path else "?") + "utm_source=feed", key=page.url)
        mirror = replace(page, host="m." + page.host, key=page.url)
        yield _capture(same_site if number % 2 else mirror, "exact_duplicate", language, original=page.url)


def _near_duplicates(sample: Sample) -> Iterator[Capture]:
    """The same story on another site of the language, with one word changed."""
    for language, (old, new) in CHANGED_WORDS.items():
        holding = [row for row, article in enumerate(sample.articles[language]) if old in "".join(article["paragraphs"])]
        for number in NEAR_DUPLICATES[language]:
            row = holding[number]
            page = _article_page(sample, language, row)
            other = _article_page(sample, language, row, site=list(LAYOUTS).index(page.layout) + 1)
            text = "\n".join(other.paragraphs).replace(old, new, 1)
            changed = replace(other, paragraphs=tuple(text.split("\n")), date="2024-04-02")
            yield _capture(changed, "near_duplicate", language, original=page.url)


def _other_languages(sample: Sample) -> Iterator[Capture]:
    """Pages that are in none of our languages; the metadata of the first call it Thai."""
    for number, row in enumerate(sample.strays["other_languages"]):
        language = row["language"]
        site = chrome_of({key: row[key] for key in ("site", "nav", "footer")})
        page = Page(
            host=f"{language}-zeitung.example" if language == "deu" else f"{language}-news.example",
            path=f"/article/{number + 1}",
            lang=OTHER_SHORT[language],
            layout=list(LAYOUTS)[number % len(LAYOUTS)],
            title=row["title"],
            paragraphs=tuple(row["paragraphs"]),
            chrome=site,
            date="2024-03-08",
        )
        capture = _capture(page, "metadata_names_thai" if number == 0 else "other_language", language)
        yield replace(capture, noted_language="tha") if number == 0 else capture


def _spam(sample: Sample) -> Iterator[Capture]:
    for number, row in enumerate(sample.strays["spam"]):
        language, words = row["language"], row["keywords"]
        joint = "，" if language == "cmn" else " " if language == "tha" else ", "
        lines = tuple(
            joint.join(words[choice(f"{language}{line}{i}", len(words))] for i in range(30)) + joint + str(100 + line)
            for line in range(5)
        )
        page = Page(
            host=f"shop-{number + 1}.example",
            path="/sale/",
            lang=cld2_codes(language)[0],
            layout=list(LAYOUTS)[number % len(LAYOUTS)],
            title=row["title"],
            paragraphs=lines,
            chrome=Chrome(site=words[0], nav=tuple(words), footer=" ".join(words)),
            date="2024-04-01",
        )
        yield _capture(page, "spam", language)


def _short(sample: Sample) -> Iterator[Capture]:
    for row in sample.strays["short"]:
        language = row["language"]
        site = replace(
            sample.chrome[language], comments=(), related="", newsletter="", advert="", share="", cookie="", byline=""
        )
        page = Page(
            host=HOSTS[language][0],
            path="/soon.html",
            lang=cld2_codes(language)[0],
            layout="portal",
            title=row["title"],
            paragraphs=(row["text"],),
            chrome=site,
            date="2024-04-09",
        )
        yield _capture(page, "too_short", language)


def _listings(sample: Sample) -> Iterator[Capture]:
    for language in LISTINGS:
        titles = [article["title"] for article in sample.articles[language]][:8]
        payload = listing_html(cld2_codes(language)[0], sample.chrome[language], titles).encode()
        yield Capture(
            url=f"https://{HOSTS[language][0]}/",
            case="listing",
            language=language,
            payload=payload,
            noted_language=language,
            text_bytes=sum(len(title.encode()) for title in titles),
        )


def _no_articles(sample: Sample) -> Iterator[Capture]:
    """An error page, a redirection, an image and a PDF file."""
    missing = error_html("id", sample.chrome["ind"]).encode()
    indonesian, thai, english = HOSTS["ind"][0], HOSTS["tha"][0], HOSTS["eng"][0]
    yield Capture(
        url=f"https://{indonesian}/2019/01/hilang.html", case="not_found", language="ind", payload=missing,
        status="404 Not Found", noted_language="ind", text_bytes=180,
    )  # fmt: skip
    yield Capture(
        url=f"http://{thai}/", case="redirect", language="und", payload=b"", status="301 Moved Permanently",
        location=f"https://{thai}/",
    )  # fmt: skip
    yield Capture(
        url=f"https://{thai}/images/market-8.jpg", case="image", language="und", payload=JPEG, content_type="image/jpeg"
    )
    yield Capture(
        url=f"https://{english}/files/timetable.pdf", case="pdf", language="und", payload=_pdf("Bus timetable, line 7"),
        content_type="application/pdf",
    )  # fmt: skip


def _pdf(line: str) -> bytes:
    """A PDF file of one page with one line of text."""
    stream = f"BT /F1 18 Tf 72 720 Td ({line}) Tj ET".encode("ascii")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(out))
    return out + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table + trailer
