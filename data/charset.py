"""From bytes to text: which charset a page is in.

The order is byte order mark > UTF-16 by its first character > valid UTF-8 > nearly valid UTF-8 > declared charset > detected
charset. UTF-8 comes before the declaration because text in another charset practically never is valid UTF-8, while servers
declare what they like; nearly valid counts because one bad byte, or a page cut within a character, is no reason to lose it.
Undeclared Thai, Vietnamese and Chinese are told by their own structure, as detectors trained on the web's large languages
miss them; for the rest uchardet decides (charset-normalizer was refused: it takes many times as long). Text in windows-1258,
which writes tone marks apart, comes out in NFC; what pages in UTF-8 write apart is left to the samples and articles made of
them.

Vietnamese was written in a dozen ways before Unicode. Three that pages really use have no codec in Python and are decoded
here: VISCII (RFC 1456), TCVN3 and VNI, the last two of which are encodings of fonts, so that servers declare Latin-1 or
nothing.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

BAD_SEQUENCES = 1 / 20
"""Byte sequences that are not UTF-8, for each multi-byte character that is, up to which text counts as nearly valid UTF-8.

GB18030 or TIS-620 text read as UTF-8 has more bad sequences than characters."""
MAX_REPLACED = 0.02
"""Share of the characters outside ASCII that a declared or detected charset may fail to decode."""
HEAD = 4096
"""Bytes of a page in which its `meta` declaration is looked for; browsers look in 1,024."""
WINDOW = 1 << 20
"""Bytes of a page that are searched for words outside ASCII when its charset is not declared."""
MAX_SAMPLE = 4 << 10
"""Bytes of these words that are looked at."""

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

CHARSETS = {
    "tis-620": "cp874", "tis620": "cp874", "iso-8859-11": "cp874", "windows-874": "cp874", "cp874": "cp874",
    "dos-874": "cp874", "gb2312": "gb18030", "gbk": "gb18030", "gb18030": "gb18030", "x-gbk": "gb18030",
    "gb_2312-80": "gb18030", "cp936": "gb18030", "gb_2312": "gb18030", "chinese": "gb18030", "hz-gb-2312": "hz",
    "big5": "big5hkscs", "big5-hkscs": "big5hkscs", "x-x-big5": "big5hkscs", "cn-big5": "big5hkscs",
    "windows-1258": "cp1258", "cp1258": "cp1258", "x-cp1258": "cp1258", "viscii": "viscii", "csviscii": "viscii",
    "viscii1.1-1": "viscii", "x-viet-viscii": "viscii", "vni": "vni", "x-vni": "vni", "x-viet-vni": "vni", "tcvn": "tcvn3",
    "tcvn3": "tcvn3", "tcvn-5712": "tcvn3", "x-viet-tcvn": "tcvn3", "x-viet-tcvn5712": "tcvn3", "shift_jis": "cp932",
    "shift-jis": "cp932", "windows-31j": "cp932", "x-sjis": "cp932", "euc-jp": "euc_jp", "iso-2022-jp": "iso2022_jp",
    "euc-kr": "cp949", "ks_c_5601-1987": "cp949", "windows-949": "cp949", "windows-1251": "cp1251", "cp1251": "cp1251",
    "koi8-r": "koi8_r", "koi8-u": "koi8_u", "iso-8859-5": "iso8859_5", "ibm866": "cp866", "x-mac-cyrillic": "mac_cyrillic",
    "windows-1250": "cp1250", "iso-8859-2": "iso8859_2", "windows-1253": "cp1253", "iso-8859-7": "iso8859_7",
    "windows-1254": "cp1254", "iso-8859-9": "cp1254", "windows-1255": "cp1255", "iso-8859-8": "iso8859_8",
    "windows-1256": "cp1256", "iso-8859-6": "iso8859_6", "windows-1257": "cp1257", "iso-8859-13": "iso8859_13",
    "iso-8859-15": "iso8859_15", "utf-16": "utf-16-le", "utf-16le": "utf-16-le", "utf-16be": "utf-16-be",
}  # fmt: skip
"""Declared name to Python's codec (or `viscii`, `tcvn3`, `vni`), as browsers read the names
(https://encoding.spec.whatwg.org): TIS-620 means windows-874, GB2312 means GB18030. Latin-1 is left out: it is what servers
declare without knowing, so it counts as no declaration."""
WESTERN = "cp1252"

_LOW = [chr(code) for code in range(128)]
for _code, _letter in zip((0x02, 0x05, 0x06, 0x14, 0x19, 0x1E), "ẲẴẪỶỸỴ", strict=True):
    _LOW[_code] = _letter
TABLES = {
    "viscii": "".join(_LOW)
    + "ẠẮẰẶẤẦẨẬẼẸẾỀỂỄỆỐỒỔỖỘỢỚỜỞỊỎỌỈỦŨỤỲÕắằặấầẩậẽẹếềểễệốồổỗỠƠộờởịỰỨỪỬơớƯ"
    + "ÀÁÂÃẢĂẳẵÈÉÊẺÌÍĨỳĐứÒÓÔạỷừửÙÚỹỵÝỡưàáâãảăữẫèéêẻìíĩỉđựòóôõỏọụùúũủýợỮ",
    "tcvn3": bytes(range(0xA0)).decode("cp1252", "replace")
    + "\u00a0ĂÂÊÔƠƯĐăâêôơưđẰ\u0300\u0309\u0303\u0301\u0323àảãáạẲằẳẵắẴẮẦẨẪẤỀặầẩẫấậèỂẻẽéẹềểễếệìỉỄẾỒĩíịò"
    + "ỔỏõóọồổỗốộờởỡớợùỖủũúụừửữứựỳỷỹýỵỐ",
}
"""Single-byte charsets without a codec in Python, 256 characters each. TCVN3 leaves 80 to 9F to windows-1252, as fonts do."""

_TONES = "\u0301\u0300\u0309\u0303\u0323"
_VNI_MARKS = (
    dict(zip("ùøûõï", _TONES, strict=True))
    | {"â": "\u0302", "ê": "\u0306"}
    | {letter: f"\u0302{tone}" for letter, tone in zip("áàåãä", _TONES, strict=True)}
    | {letter: f"\u0306{tone}" for letter, tone in zip("éèúüë", _TONES, strict=True)}
)
"""What a letter behind a vowel stands for in VNI: a tone, or the circumflex or breve with or without one."""
_VNI_LETTERS = dict(zip("ñöôíìæóòîÑÖÔÍÌÆÓÒÎ", "đươíìỉĩịỵĐƯƠÍÌỈĨỊỴ", strict=True))
_VNI = re.compile("([AEOUYaeouyÖÔöô])([ÙØÛÕÏÂÁÀÅÃÄÊÉÈÚÜËùøûõïâáàåãäêéèúüë])|([ñöôíìæóòîÑÖÔÍÌÆÓÒÎ])")

_VOWELS = "aeiouyăâêôơưàằầèềìòồờùừỳảẳẩẻểỉỏổởủửỷãẵẫẽễĩõỗỡũữỹáắấéếíóốớúứýạặậẹệịọộợụựỵ"
_SYLLABLE = re.compile(f"(?:ngh|ng|nh|ch|gh|gi|kh|ph|qu|th|tr|[bcdđghklmnpqrstvx])?[{_VOWELS}]{{1,3}}(?:ch|ng|nh|[cmnpt])?")
_WORDS = """
của và là có không được một các người những cho với này đã để đến từ về tại năm ở vào khi như cũng đó sẽ việc rất nhiều hơn ông
bị theo thể phải chỉ nước học thành sự điều hoặc nếu đang lại thì mới vì đi quyền tôi bạn mình nhà cô bà số ngày hai mọi cả
"""
_COMMON_VIETNAMESE = frozenset(_WORDS.split())
_COMMON_CHINESE = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方"
    "多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心本前开但因只从想实日者意无与长公已工明性知全关点业将两间问"
    "這個們來為國說時會對於著過發後裡種經麼學現當沒動還進樣開從實無與長關點業將兩間問"
)
_CHINESE_MARKS = "，。、；：？！“”（）《》·…—「」　"
_STRAY_SIGN = re.compile(
    "(?<![\u0e01-\u0e2e\u0e31\u0e34-\u0e3a\u0e47-\u0e4e])[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]|[\u0e40-\u0e44](?![\u0e01-\u0e2e])"
)
"""A vowel sign or tone mark of Thai without its consonant: none in Thai, many in bytes of other languages read as Thai."""
_RARE_THAI = re.compile("[\u0e03\u0e05\u0e06\u0e0c\u0e0e-\u0e12\u0e24\u0e26\u0e2c\u0e2f\u0e3a-\u0e3f\u0e45\u0e4d-\u0e5b]")
"""One in a hundred letters of Thai, one in four of Korean bytes read as Thai."""
_META = re.compile(rb"charset\s{0,8}=\s{0,8}[\"']?\s{0,8}([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
_HEADER = re.compile(r"charset\s{0,8}=\s{0,8}[\"']?\s{0,8}([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
_ASCII = re.compile(r"[\x00-\x7f]+")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A page's text, and how it was read."""

    text: str
    charset: str
    """Python's codec, or `viscii`, `tcvn3` or `vni`."""
    rule: str
    """`bom`, `utf-16`, `utf-8`, `near-utf-8`, `declared` or `detected`."""


def decode(payload: bytes, content_type: str = "", noted: str = "") -> Decoded | None:
    """Decode a page; None when no charset fits.

    `content_type` is the HTTP header, `noted` the charset that the crawler detected; NUL characters are taken out.
    """
    for mark, charset in BOMS:
        if payload.startswith(mark):
            return _decoded(payload[len(mark) :].decode(charset, "replace"), charset, "bom")
    if charset := {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}.get(payload[:2], ""):
        return _decoded(payload.decode(charset, "replace"), charset, "utf-16")
    text = payload.decode("utf-8", "replace")
    replaced = text.count("\ufffd")
    bad = replaced and replaced - payload.count("\ufffd".encode())
    if not bad:
        return _decoded(text, "utf-8", "utf-8")
    if bad <= (_count_outside_ascii(text) - replaced) * BAD_SEQUENCES:
        return _decoded(text, "utf-8", "near-utf-8")
    names = [match[1] for match in (_HEADER.search(content_type),) if match]
    names += [match[1].decode("ascii") for match in _META.finditer(payload[:HEAD])][:1]
    declared = _first_that_fits(payload, (CHARSETS.get(name.lower(), "") for name in names), "declared")
    return declared or _first_that_fits(payload, _guesses(payload, noted), "detected")


def _first_that_fits(payload: bytes, charsets: Iterable[str], rule: str) -> Decoded | None:
    for charset in filter(None, charsets):
        text = _read(payload, charset)
        if text.count("\ufffd") <= MAX_REPLACED * _count_outside_ascii(text):
            return _decoded(text, charset, rule)
    return None


def _guesses(payload: bytes, noted: str) -> Iterator[str]:
    """What the crawler detected, our languages' charsets by their own structure, uchardet's, at last what browsers assume."""
    from resiliparse.parse.encoding import detect_encoding

    yield CHARSETS.get(noted.lower(), "")
    sample = b" ".join(word for word in payload[:WINDOW].split() if not word.isascii())[:MAX_SAMPLE]
    yield "cp874" if _is_thai(sample) else _vietnamese_charset(sample) or _chinese_charset(sample)
    detected = str(detect_encoding(sample))
    yield CHARSETS.get(detected, detected)
    yield WESTERN


def _read(payload: bytes, charset: str) -> str:
    if table := TABLES.get(charset):
        return payload.decode("latin-1").translate(table)
    if charset == "vni":
        return _VNI.sub(_vni_letter, payload.decode(WESTERN, "replace"))
    return payload.decode(charset, "replace")


def _vni_letter(found: re.Match[str]) -> str:
    if found[3]:
        return _VNI_LETTERS[found[3]]
    return unicodedata.normalize("NFC", _VNI_LETTERS.get(found[1], found[1]) + _VNI_MARKS[found[2].lower()])


def _is_thai(sample: bytes) -> bool:
    thai = _ASCII.sub(" ", sample.decode("cp874", "replace"))
    letters = len(thai) - thai.count(" ")
    in_block = sum("\u0e01" <= character <= "\u0e5b" for character in thai)
    odd = len(_STRAY_SIGN.findall(thai)) + len(_RARE_THAI.findall(thai))
    return letters >= 8 and in_block >= 0.98 * letters and odd <= 0.06 * letters


def _vietnamese_charset(sample: bytes) -> str:
    """The charset in which nine of ten words with letters outside ASCII are syllables of Vietnamese, a tenth of them common.

    Syllables alone do not tell TCVN3 from VISCII, in which its vowels are other vowels; empty for no charset.
    """
    words = [word for word in re.findall(rb"[A-Za-z\x80-\xff]{1,30}", sample) if not word.isascii()][:500]
    fits = {}
    for charset in ("cp1258", "viscii", "tcvn3", "vni"):
        read = unicodedata.normalize("NFC", _read(b" ".join(words), charset)).lower().split(" ")
        syllables = sum(bool(_SYLLABLE.fullmatch(word)) for word in read)
        common = sum(map(_COMMON_VIETNAMESE.__contains__, read))
        fits[charset] = common if syllables >= 0.9 * len(words) and common >= max(2, 0.1 * len(words)) else 0
    best = max(fits, key=lambda charset: fits[charset])
    return best if fits[best] else ""


def _chinese_charset(sample: bytes) -> str:
    """The charset in which the text is Chinese, a sixth of it the commonest characters; Korean bytes make rare ones."""
    fits = {}
    for charset in ("gb18030", "big5hkscs"):
        wide = _ASCII.sub("", sample.decode(charset, "replace"))[:5000]
        chinese = sum("\u4e00" <= character <= "\u9fff" or character in _CHINESE_MARKS for character in wide)
        common = sum(map(_COMMON_CHINESE.__contains__, wide))
        fits[charset] = common / len(wide) if wide and chinese >= 0.95 * len(wide) else 0
    best = max(fits, key=lambda charset: fits[charset])
    return best if fits[best] >= 0.15 else ""


def _count_outside_ascii(text: str) -> int:
    return len(text) - len(text.encode("ascii", "ignore"))


def _decoded(text: str, charset: str, rule: str) -> Decoded:
    text = text.replace("\x00", "")
    # not for all: it takes 0.5 ms a page, nineteen in twenty are dropped, and samples and articles are put in NFC themselves
    return Decoded(unicodedata.normalize("NFC", text) if charset == "cp1258" else text, charset, rule)
