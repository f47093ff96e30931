"""From bytes to text: which charset a page is in.

The order is byte order mark > valid UTF-8 > nearly valid UTF-8 > declared charset > detected charset. UTF-8 comes before the
declaration because text in another charset practically never is valid UTF-8, while servers declare what they like; nearly valid
counts because one bad byte, or a page cut within a character, is no reason to lose it. The result is in NFC (windows-1258 and
some Vietnamese pages write tone marks apart).
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass

BAD_SEQUENCES = 1 / 20
"""Bytes sequences that are not UTF-8, for each multi-byte character that is, up to which text counts as nearly valid UTF-8.

GB18030 or TIS-620 text read as UTF-8 has more bad sequences than characters."""
MAX_REPLACED = 0.02
"""Share of characters that a declared or detected charset may fail to decode."""
HEAD = 4096
"""Bytes of a page in which its `meta` declaration is looked for; browsers look in 1,024."""

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

CHARSETS = {
    "tis-620": "cp874", "tis620": "cp874", "iso-8859-11": "cp874", "windows-874": "cp874", "cp874": "cp874", "dos-874": "cp874",
    "gb2312": "gb18030", "gbk": "gb18030", "gb18030": "gb18030", "x-gbk": "gb18030", "gb_2312-80": "gb18030",
    "gb_2312": "gb18030", "chinese": "gb18030", "hz-gb-2312": "hz", "big5": "big5hkscs", "big5-hkscs": "big5hkscs",
    "x-x-big5": "big5hkscs", "windows-1258": "cp1258", "cp1258": "cp1258", "x-cp1258": "cp1258", "windows-1256": "cp1256",
    "shift_jis": "cp932", "shift-jis": "cp932", "windows-31j": "cp932", "euc-jp": "euc_jp", "iso-2022-jp": "iso2022_jp",
    "euc-kr": "cp949", "ks_c_5601-1987": "cp949", "windows-1251": "cp1251", "koi8-r": "koi8_r", "windows-1250": "cp1250",
    "iso-8859-2": "iso8859_2", "iso-8859-15": "iso8859_15", "windows-1254": "cp1254", "iso-8859-9": "cp1254",
    "utf-16": "utf-16-le", "utf-16le": "utf-16-le", "utf-16be": "utf-16-be",
}  # fmt: skip
"""Declared name to Python's codec, as browsers read the names (https://encoding.spec.whatwg.org): TIS-620 means windows-874,
GB2312 means GB18030. Latin-1 is left out: it is what servers declare without knowing, so it counts as no declaration."""

WESTERN = "cp1252"
CHINESE_MARKS = "，。、；：？！“”（）《》·…"
_STRAY_MARK = re.compile("(?<![\u0e01-\u0e2e\u0e31\u0e34-\u0e3a\u0e47-\u0e4e])[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]")
"""A Thai vowel sign or tone mark without a consonant: none in Thai, many in Chinese bytes read as Thai."""
_META = re.compile(rb"charset\s{0,8}=\s{0,8}[\"']?\s{0,8}([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
_HEADER = re.compile(r"charset\s{0,8}=\s{0,8}[\"']?\s{0,8}([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A page's text, and how it was read."""

    text: str
    charset: str
    """Python's codec."""
    rule: str
    """`bom`, `utf-8`, `near-utf-8`, `declared` or `detected`."""


def decode(payload: bytes, content_type: str = "", noted: str = "") -> Decoded | None:
    """Decode a page; None when no charset fits.

    `content_type` is the HTTP header, `noted` the charset that the crawler detected; NUL characters are taken out.
    """
    for mark, charset in BOMS:
        if payload.startswith(mark):
            return _decoded(payload[len(mark) :].decode(charset, "replace"), charset, "bom")
    text = payload.decode("utf-8", "replace")
    bad = text.count("\ufffd") - payload.count("\ufffd".encode())
    if not bad:
        return _decoded(text, "utf-8", "utf-8")
    multi_byte = sum(len(run) for run in re.findall(r"[^\x00-\x7f\ufffd]+", text))
    if bad <= multi_byte * BAD_SEQUENCES:
        return _decoded(text, "utf-8", "near-utf-8")
    names = [match[1] for match in (_HEADER.search(content_type),) if match]
    names += [match[1].decode("ascii") for match in _META.finditer(payload[:HEAD])][:1]
    return _first_that_fits(payload, names, "declared") or _first_that_fits(payload, [noted, _detected(payload)], "detected")


def _first_that_fits(payload: bytes, names: list[str], rule: str) -> Decoded | None:
    for name in names:
        charset = CHARSETS.get(name.lower(), WESTERN if name == WESTERN else "")
        if charset:
            text = payload.decode(charset, "replace")
            if text.count("\ufffd") <= MAX_REPLACED * sum(character > "\x7f" for character in text):
                return _decoded(text, charset, rule)
    return None


def _detected(payload: bytes) -> str:
    """The charset of undeclared text: the two that matter here by their own structure, the rest by charset-normalizer."""
    from charset_normalizer import from_bytes

    high = re.sub(rb"[\x00-\x7f]+", b" ", payload)
    thai = high.decode("cp874", "replace").replace(" ", "")
    in_block = sum("\u0e01" <= character <= "\u0e5b" for character in thai)
    if thai and in_block >= 0.98 * len(thai) and len(_STRAY_MARK.findall(thai)) <= 0.02 * len(thai):
        return "tis-620"
    chinese = payload.decode("gb18030", "replace")
    wide = [character for character in chinese if character > "\x7f"]
    if sum("\u4e00" <= character <= "\u9fff" or character in CHINESE_MARKS for character in wide) >= 0.95 * len(wide):
        return "gb18030"
    best = from_bytes(payload[: 64 << 10]).best()
    return best.encoding.replace("_", "-") if best else WESTERN


def _decoded(text: str, charset: str, rule: str) -> Decoded:
    return Decoded(unicodedata.normalize("NFC", text.replace("\x00", "")), charset, rule)
