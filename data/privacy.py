"""Masking of personal data: e-mail addresses, public IP addresses and telephone numbers become fixed placeholders.

datatrove's PIIFormatter is not used: it knows no telephone numbers, misses addresses that touch Thai or Chinese letters, and
its pattern takes quadratic time on long runs. All patterns here have bounded repetitions. National identity numbers are left
alone: without their context they are digits like any others.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

PLACEHOLDERS = {"email": "[EMAIL]", "ip": "[IP]", "phone": "[PHONE]"}
KINDS = tuple(PLACEHOLDERS)

_ZEROS = "0０๐໐၀០௦"
_SEPARATORS = r"[ .\-\u00a0\u2010-\u2013]{1,2}"
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9_][A-Za-z0-9._%+\-]{0,63}@"
    r"[A-Za-z0-9][A-Za-z0-9-]{0,62}(?:\.[A-Za-z0-9][A-Za-z0-9-]{0,62}){1,8}"
)
_IPV4 = re.compile(r"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9]|\.[0-9])")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![0-9A-Za-z:])")
_COUNTRIES = "(?:60|62|63|65|66|84|86|91|95|855|856)"
_PHONE = re.compile(
    rf"(?<![\dA-Za-z_+])(?<!\d[.,/\-])(?:"
    rf"\(?(?:\+|00(?={_COUNTRIES})) ?\d{{1,13}}\)?(?:{_SEPARATORS}?\(?\d{{1,9}}\)?){{0,6}}"
    rf"|\(?[{_ZEROS}]\d{{1,12}}\)?(?:{_SEPARATORS}\d{{2,9}}){{0,5}}"
    r"|1[3-9]\d(?:[ \-]?\d{4}){2}"  # China
    r"|[6-9]\d{4}[ \-]?\d{5}"  # India
    r"|[689]\d{3} \d{4}"  # Singapore
    r")(?![\d])"
)
_DATE = re.compile(r"\d{1,2}[-./ ]\d{1,2}[-./ ](?:\d{4}|\d{2})(?!\d)")
_GROUP = re.compile(r"\d+\)?")


@dataclass(frozen=True, slots=True)
class Masked:
    """A text without personal data."""

    text: str
    counts: dict[str, int]
    """Kind to the number of replacements."""


def mask(text: str, kinds: Collection[str] = KINDS) -> Masked:
    """Replace personal data of the given kinds (`email`, `ip`, `phone`) by their placeholders."""
    counts = dict.fromkeys(KINDS, 0)

    def replaced(kind: str, keep: int, match: re.Match[str]) -> str:
        """The placeholder, and what the match holds beyond the first `keep` characters; the match itself for 0."""
        counts[kind] += bool(keep)
        return PLACEHOLDERS[kind] + match[0][keep:] if keep else match[0]

    if "email" in kinds:
        text = _EMAIL.sub(lambda match: replaced("email", len(match[0]), match), text)
    if "ip" in kinds:
        for pattern in (_IPV4, _IPV6):
            text = pattern.sub(lambda match: replaced("ip", len(match[0]) * is_public_address(match[0]), match), text)
    if "phone" in kinds:
        text = _PHONE.sub(lambda match: replaced("phone", _phone_length(match[0]), match), text)
    return Masked(text, counts)


def is_public_address(text: str) -> bool:
    """Whether a text is an IP address of the public internet."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


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
