"""Masking of personal data: e-mail and public IP addresses, telephone, identity and card numbers become fixed placeholders.

datatrove's PIIFormatter is not used: it knows no telephone numbers, misses addresses that touch Thai or Chinese letters, and
its pattern takes quadratic time on long runs. Here a text is first searched for *clusters*, six digits or more close together,
and only these are looked at closely: most of a text costs one pass of a character class. All patterns have bounded repetitions.
A telephone number must be one in some country's numbering plan (phonenumbers), a card must have an issuer's prefix and length
and Luhn's check digit, an identity number what `identifiers` says.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import phonenumbers
from stdnum import luhn

from .identifiers import BORDER, BURMESE, DIGITS, END, LETTERED, first_identifier, is_lettered

PLACEHOLDERS = {"email": "[EMAIL]", "ip": "[IP]", "phone": "[PHONE]", "id": "[ID]", "card": "[CARD]"}
KINDS = tuple(PLACEHOLDERS)

REGIONS = {
    "mya": "MM", "cmn": "CN", "ind": "ID", "khm": "KH", "lao": "LA", "zsm": "MY", "fil": "PH", "tam": "IN", "tha": "TH",
    "vie": "VN", "eng": "SG",
}  # fmt: skip
"""Language to the country whose numbering plan is tried first; the others follow, and Brunei's."""

_CONTEXT = 48
"""Characters before a number that may tell what it is."""
_AFTER = 4
_CHUNK = 128
"""Characters of a cluster looked at in one go; longer than any number."""
_OVERLAP = 48
_NATIVE = {ord(digit): str(unicodedata.digit(digit)) for low, high in ("０９", "๐๙", "໐໙", "၀၉", "០៩", "௦௯")
           for digit in map(chr, range(ord(low), ord(high) + 1))}  # fmt: skip
_DIGIT = re.compile(f"[{DIGITS}]")
_CLUSTER = re.compile(rf"[{DIGITS}](?:[ .\-/()\u00a0\u2010-\u2013]{{0,3}}[{DIGITS}]){{5,}}")
_BEHIND_BRACKET = re.compile(rf"[)）] ?[{DIGITS}]{{6}}")

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9_][A-Za-z0-9._%+\-]{0,63}@"
    r"[A-Za-z0-9][A-Za-z0-9-]{0,62}(?:\.[A-Za-z0-9][A-Za-z0-9-]{0,62}){1,8}"
)
_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9]|\.[0-9])")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![0-9A-Za-z:])")
_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")
_DOTS = re.compile(r"\.[0-9]{1,3}\.[0-9]")
_LETTERED_END = re.compile(r"[0-9]{4}[A-Z]")
_VERSION = re.compile(r"(?:\bv|ver\.?|versi(?:on)?|phiên bản|เวอร์ชัน|版本|பதிப்பு)[ :.]{0,2}$", re.IGNORECASE)
_SERIAL = re.compile(r"(?:ISBN|ISSN)(?:-1[03])?[ :：]{0,3}$", re.IGNORECASE)

_SEPARATORS = r"[ .\-\u00a0\u2010-\u2013]{1,2}"
_COUNTRIES = "(?:60|62|63|65|66|84|86|91|95|855|856)"
_PHONE = re.compile(
    rf"(?<![\dA-Za-z_+])(?<!\d[.,/\-])(?:"
    rf"\(?(?:\+|00(?={_COUNTRIES})) ?\d{{1,13}}\)?(?:{_SEPARATORS}?\(?\d{{1,9}}\)?){{0,6}}"
    rf"|\(?0\d{{1,12}}\)?(?:{_SEPARATORS}\d{{2,9}}){{0,5}}"
    r"|1[3-9]\d(?:[ \-]?\d{4}){2}"  # China
    r"|[6-9]\d{4}[ \-]?\d{5}"  # India
    r"|[689]\d{3} \d{4}"  # Singapore
    r")(?![\d])"
)
_DATE = re.compile(r"\d{1,2}[-./ ]\d{1,2}[-./ ](?:\d{4}|\d{2})(?!\d)")
_GROUP = re.compile(r"\d+\)?")
_CARD = re.compile(
    rf"{BORDER}(?:[2-6][0-9]{{13,18}}"
    rf"|[2-6][0-9]{{3}}(?P<a>[ \-])[0-9]{{4}}(?P=a)[0-9]{{4}}(?P=a)[0-9]{{4}}(?:(?P=a)[0-9]{{1,3}})?"
    rf"|3[0-9]{{3}}(?P<b>[ \-])[0-9]{{6}}(?P=b)[0-9]{{4,5}}){END}"
)
_ISSUER = re.compile(
    r"4(?:\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|3(?:0[0-5]|[689]\d)\d{11}"  # Diners Club
    r"|35(?:2[89]|[3-8]\d)\d{12}"  # JCB
    r"|62\d{14,17}|81\d{14}"  # UnionPay
    r"|6(?:011|4[4-9]\d|5\d\d)\d{12}"  # Discover, RuPay
)

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Masked:
    """A text without personal data."""

    text: str
    counts: dict[str, int]
    """Kind to the number of replacements."""


def mask(text: str, kinds: Collection[str] = KINDS, language: str = "") -> Masked:
    """Replace personal data of the given `KINDS` by their placeholders; `language` (ISO 639-3) says which plan to try first."""
    counts = dict.fromkeys(KINDS, 0)

    def substituted(kind: str, pattern: re.Pattern[str], is_meant: Callable[[str, re.Match[str]], bool], text: str) -> str:
        def replaced(match: re.Match[str]) -> str:
            if not is_meant(text, match):
                return match[0]
            counts[kind] += 1
            return PLACEHOLDERS[kind]

        return pattern.sub(replaced, text)

    if "email" in kinds and "@" in text:
        text = substituted("email", _EMAIL, lambda *_: True, text)
    if "ip" in kinds and _COLONS.search(text):
        text = substituted("ip", _IPV6, lambda _, match: is_public_address(match[0]), text)
    if not _DIGIT.search(text):
        return Masked(text, counts)
    if "ip" in kinds and _DOTS.search(text):
        text = substituted("ip", _IPV4, _is_ipv4, text)
    finders = {kind: finder for kind, finder in FINDERS.items() if kind in kinds}
    if finders:
        text = _Clusters(text, finders, language, counts).masked()
    if "id" in kinds and _LETTERED_END.search(text):
        text = substituted("id", LETTERED, is_lettered, text)
    if "id" in kinds and _BEHIND_BRACKET.search(text):
        text = substituted("id", BURMESE, lambda *_: True, text)
    return Masked(text, counts)


def is_public_address(text: str) -> bool:
    """Whether a text is an IP address of the public internet."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _is_ipv4(text: str, match: re.Match[str]) -> bool:
    """Whether four numbers are an address: not the middle of a longer run, nor a version or a section (`1.2.3.4`)."""
    start = match.start()
    before = text[start - 1] if start else " "
    if (before.isascii() and (before.isalnum() or before in "._-")) or _VERSION.search(text[max(0, start - 12) : start]):
        return False
    octets = match[0].split(".")
    return not (len(match[0]) == 7 and len(set(octets)) > 1) and is_public_address(match[0])


class _Clusters:
    """Goes through a text from cluster to cluster, and within one from number to number; what follows one is seen anew."""

    def __init__(self, text: str, finders: Mapping[str, Finder], language: str, counts: dict[str, int]) -> None:
        self.text, self.finders, self.language, self.counts = text, finders, language, counts
        self.pieces: list[str] = []
        self.tail = ""
        """The end of the masked text so far: what a second masking would see before a number."""
        self.done = 0

    def masked(self) -> str:
        """The text without the numbers."""
        while cluster := _CLUSTER.search(self.text, self.done):
            begin, end = cluster.span()
            while begin > self.done and self.text[begin - 1] in "(+":
                begin -= 1
            self._emit_up_to(begin)
            while self.done < end:
                self._step(end)
        self._emit_up_to(len(self.text))
        return "".join(self.pieces)

    def _emit(self, piece: str, done: int) -> None:
        self.pieces.append(piece)
        self.tail = (self.tail + piece[-_CONTEXT:])[-_CONTEXT:]
        self.done = done

    def _emit_up_to(self, end: int) -> None:
        self._emit(self.text[self.done : end], end)

    def _step(self, end: int) -> None:
        """Emit the cluster's part up to and with its first number, or as far as there is none."""
        stop = min(end, self.done + _CHUNK)
        chunk = (self.tail + self.text[self.done : stop + _AFTER]).translate(_NATIVE)
        shift = self.done - len(self.tail)
        spans = ((finder(chunk, len(self.tail), self.language), kind) for kind, finder in self.finders.items())
        found = [(span, kind) for span, kind in spans if span]
        if not found:
            self._emit_up_to(end if stop == end else stop - _OVERLAP)
            return
        (first, last), kind = min(found, key=lambda item: item[0][0])
        self.counts[kind] += 1
        self._emit_up_to(first + shift)
        self._emit(PLACEHOLDERS[kind], last + shift)


def _identifier(text: str, start: int, language: str) -> Span | None:
    return first_identifier(text, start)


def _card(text: str, start: int, language: str) -> Span | None:
    for match in _CARD.finditer(text, start):
        digits = match[0].replace(" ", "").replace("-", "")
        if _ISSUER.fullmatch(digits) and luhn.is_valid(digits):
            return match.span()
    return None


def _phone(text: str, start: int, language: str) -> Span | None:
    while match := _PHONE.search(text, start):
        begin, number = match.start(), match[0][: _phone_length(match[0])]
        if number.startswith("(") and number.find(")") in (-1, len(number) - 1):  # brackets round the whole are the text's
            begin, number = begin + 1, number[1:].rstrip(")")
        if number and not _SERIAL.search(text[max(0, begin - 12) : begin]) and is_phone_number(number, language):
            return begin, begin + len(number)
        group = _GROUP.search(text, match.start())
        assert group is not None, "a candidate begins with digits"
        start = group.end()
    return None


Finder = Callable[[str, int, str], Span | None]
FINDERS: dict[str, Finder] = {"id": _identifier, "card": _card, "phone": _phone}
"""Kind to what finds its first number at or after a place; where two find one at the same place, the earlier kind has it."""


@lru_cache(maxsize=1 << 14)
def is_phone_number(text: str, language: str = "") -> bool:
    """Whether a number is one: with a country code if its length is right, without in a numbering plan of the region."""
    number = text.lstrip("(")
    if number.startswith(("+", "00")):
        try:
            return phonenumbers.is_possible_number(phonenumbers.parse("+" + number.lstrip("+0 ")))
        except phonenumbers.NumberParseException:
            return False
    if number[0] != "0":
        countries = [{8: "SG", 10: "IN", 11: "CN"}[sum(character.isdigit() for character in number)]]
    else:
        own = REGIONS.get(language, "ID")
        countries = [own, *(region for region in (*REGIONS.values(), "BN") if region != own)]
    return any(phonenumbers.is_valid_number(phonenumbers.parse(text, country)) for country in countries)


def _phone_length(text: str) -> int:
    """How many characters of a run of digit groups are a telephone number, 0 when none.

    Singapore's have 8 digits in two groups; others of the region 9 to 11 digits with the leading zero, some Indonesian ones 12
    or 13; with a country code all have 9 to 13. The longest of these that ends with a group
    is taken, so that a price behind it stays.
    """
    is_international = text.lstrip("(").startswith(("+", "00"))
    if not is_international and _DATE.match(text.lstrip("(")):
        return 0
    digits, lengths = 0, {}
    for group in _GROUP.finditer(text):
        digits += sum(character.isdigit() for character in group[0])
        lengths[digits] = group.end()
    if digits == 8 and text[0] in "689":
        return len(text)
    usual = [count for count in lengths if 9 <= count <= (13 if is_international else 11)]
    longer = [count for count in lengths if 9 <= count <= 15]
    return lengths[max(usual)] if usual else lengths[min(longer)] if longer else 0
