"""National identity numbers of the region in running text: those that their build proves, and those that a word names.

*Proven* forms (a check digit, a birth date with a place code, a rare shape) are found anywhere. *Named* forms (the Vietnamese
CCCD, PhilSys, Lao and Khmer cards: digits like any others) only where a word such as `CCCD` or `NIK` stands shortly before. The
refused alternative, any run of 12 to 16 digits, masks bar codes, account numbers and time stamps. Checksums and place codes are
python-stdnum's; Singapore's, which it lacks, is here. Texts come with native digits turned to ASCII ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from stdnum import ean, verhoeff
from stdnum.cn import ric
from stdnum.id import nik
from stdnum.in_ import pan
from stdnum.my import nric
from stdnum.th import pin

BORDER = r"(?<![0-9A-Za-z_/=#@$+])(?<![0-9][.,\-])(?<![a-f]-)"
"""Before a number: not within a word, a path, a query, a decimal fraction, a UUID."""
END = r"(?![0-9A-Za-z]|[.\-][0-9])"
"""After a number."""
MAX_REACH = 40
"""Characters between a word and the number that it names."""
DIGITS = "0-9０-９๐-๙໐-໙၀-၉០-៩௦-௯"
"""Digits of our languages' scripts, for a character class."""


@dataclass(frozen=True, slots=True)
class Proven:
    """Numbers that prove themselves."""

    name: str
    """Country and document."""
    pattern: re.Pattern[str]
    """Digits in the groups that people write."""
    is_valid: Callable[[str], bool]
    """Whether the digits, without separators, are such a number."""


@dataclass(frozen=True, slots=True)
class Named:
    """Numbers that are known by a word before them only."""

    name: str
    """Country and document."""
    words: str
    """What names them, a pattern."""
    lengths: frozenset[int]
    """Digits that they have."""


def _groups(*alternatives: tuple[int, ...]) -> re.Pattern[str]:
    """Numbers in these groups of digits, each with one kind of separator throughout, or in one piece."""
    shapes = {f"[0-9]{{{sum(groups)}}}" for groups in alternatives}
    for number, groups in enumerate(alternatives, 1):
        head, *rest = (f"[0-9]{{{count}}}" for count in groups)
        if rest:
            shapes.add(head + rf"(?P<s{number}>[ .\-])" + rf"(?P=s{number})".join(rest))
    return re.compile(f"{BORDER}(?:{'|'.join(sorted(shapes, key=len, reverse=True))}){END}")


def _shaped(pattern: str) -> re.Pattern[str]:
    return re.compile(f"{BORDER}{pattern}{END}")


def _is_thai(digits: str) -> bool:
    """Thai numbers, but no bar codes: one in eleven of those passes by chance, and the region's begin with 88 or 89."""
    return pin.is_valid(digits) and not (digits[0] == "8" and ean.is_valid(digits))


def _is_indian(digits: str) -> bool:
    return digits[0] in "23456789" and verhoeff.is_valid(digits)


def is_singaporean(number: str) -> bool:
    """Whether an NRIC or FIN (`S1234567D`) has the right check letter."""
    letter, digits = number[0], number[1:8]
    total = sum(int(digit) * weight for digit, weight in zip(digits, (2, 7, 6, 5, 4, 3, 2), strict=True))
    total += {"S": 0, "F": 0, "T": 4, "G": 4, "M": 3}[letter]
    letters = {"S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "F": "XWUTRQPNMLK", "G": "XWUTRQPNMLK", "M": "XWUTRQPNJLK"}
    return letters[letter][total % 11] == number[8]


PROVEN = (
    Proven("cmn resident identity card", _shaped(r"[1-9][0-9]{5}(?:19|20)[0-9]{9}[0-9Xx]"), ric.is_valid),
    Proven("ind NIK", _groups((16,), (4, 4, 4, 4), (6, 6, 4)), nik.is_valid),
    Proven("tha identity card", _groups((1, 4, 5, 2, 1)), _is_thai),
    Proven("zsm MyKad", _shaped(r"[0-9]{6}-[0-9]{2}-[0-9]{4}"), nric.is_valid),
    Proven("tam Aadhaar", _shaped(r"[2-9][0-9]{3}(?P<s>[ \-])[0-9]{4}(?P=s)[0-9]{4}"), _is_indian),
    Proven(
        "fil SSS, UMID, PhilHealth", _shaped(r"(?:[0-9]{2}-[0-9]{7}|[0-9]{4}-[0-9]{7}|[0-9]{2}-[0-9]{9})-[0-9]"), lambda _: True
    ),
)
"""Found anywhere."""


def _lengths(*counts: int) -> frozenset[int]:
    return frozenset(counts)


NAMED = (
    Named("ind NIK, KK", r"\bnik|\bktp|kartu keluarga|\bno\.? ?kk", _lengths(16)),
    Named("zsm MyKad", r"mykad|kad pengenalan|\bk/p\b|\bno\.? ?kp\b|\bic\b|\bnric\b", _lengths(12)),
    Named("vie CCCD, CMND", r"\bcccd|\bcmnd|căn cước|chứng minh (?:nhân dân|thư)", _lengths(9, 12)),
    Named("tha identity card", r"ประจำตัวประชาชน|บัตรประชาชน|ปชช", _lengths(13)),
    Named("fil PhilSys, TIN, SSS", r"philsys|philid|\bpcn\b|\bsss\b|\bumid\b|\bgsis\b|\btin\b|philhealth|pag-?ibig",
          _lengths(9, 10, 11, 12, 14, 16)),
    Named("tam Aadhaar", r"aadhaa?r|\buidai\b|ஆதார்|आधार", _lengths(12)),
    Named("lao identity card", r"ບັດປະຈ[ຳໍ]າ?ຕົວ|ບັດປະຊາຊົນ", _lengths(8, 9, 10, 11, 12, 13)),
    Named("khm identity card", r"អត្តសញ្ញាណ", _lengths(9, 10)),
    Named("cmn identity card", r"身[份分][证證]|\b居民证", _lengths(15, 18)),
)  # fmt: skip
"""Found behind one of their words."""

_HINTS = (
    "nik", "ktp", "kartu", "kk", "mykad", "kad", "k/p", "kp", "ic", "cccd", "cmnd", "căn", "chứng", "ประชาชน", "ปชช", "phil",
    "pcn", "sss", "umid", "gsis", "tin", "pag", "aadha", "uidai", "ஆதார்", "आधार", "ບັດປະ", "អត្តសញ្ញាណ", "身", "居民证",
)  # fmt: skip
"""Parts of the words above, one of which each of them has: thirty look-ups cost a hundredth of the patterns."""
_WORDS = {kind: re.compile(rf"(?:{kind.words})[^0-9\n]{{0,{MAX_REACH - 10}}}$", re.IGNORECASE) for kind in NAMED}
_NAMED_NUMBER = re.compile(rf"{BORDER}[0-9]{{1,18}}(?:[ .\-][0-9]{{1,9}}){{0,5}}(?![0-9])")
_GROUP_END = re.compile(r"[0-9]+")

LETTERED = re.compile(r"[STFGM][0-9]{7}[A-Z](?![0-9A-Za-z])|[A-Z]{5}[0-9]{4}[A-Z](?![0-9A-Za-z])")
"""Singapore's NRIC and FIN, India's PAN: candidates, to be judged by `is_lettered`."""
BURMESE = re.compile(
    rf"(?<![{DIGITS}])[{DIGITS}]{{1,2}} ?/ ?[A-Za-z\u1000-\u103f\u1060-\u109f]{{2,24}} ?"
    rf"[(（] ?(?:[NCPETSR]|[Nn]aing|NAING|နိုင်|ဧည့်|ပြု|သာသနာ|သီ|သ|စ|ယာယီ)"
    rf"[^()（）\n{DIGITS}]{{0,8}}[)）] ?[{DIGITS}]{{6}}(?![{DIGITS}])"
)
"""Myanmar's NRC, `12/OUKAMA(N)123456`: state, township, kind of citizenship, six digits."""


def is_lettered(text: str, match: re.Match[str]) -> bool:
    """Whether a match of `LETTERED` stands alone and is such a number."""
    before = text[match.start() - 1] if match.start() else " "
    if before.isascii() and (before.isalnum() or before in "_/=#@$-"):
        return False
    return is_singaporean(match[0]) if len(match[0]) == 9 else bool(pan.is_valid(match[0]))


def first_identifier(text: str, start: int) -> tuple[int, int] | None:
    """Where the first identity number at or after `start` begins and ends; `text` has ASCII digits."""
    found = [span for span in (*(_proven(kind, text, start) for kind in PROVEN), _named(text, start)) if span]
    return min(found, default=None)


def _proven(kind: Proven, text: str, start: int) -> tuple[int, int] | None:
    for match in kind.pattern.finditer(text, start):
        if kind.is_valid(re.sub(r"[ .\-]", "", match[0])):
            return match.span()
    return None


def _named(text: str, start: int) -> tuple[int, int] | None:
    """The first number behind a word that names it; of several groups, the most that make up a known length."""
    lower = text.lower()
    if not any(hint in lower for hint in _HINTS):
        return None
    for match in _NAMED_NUMBER.finditer(text, start):
        before = text[max(0, match.start() - MAX_REACH) : match.start()]
        for kind in NAMED:
            if _WORDS[kind].search(before) and (end := _end_of(match, kind.lengths)):
                return match.start(), end
    return None


def _end_of(match: re.Match[str], lengths: frozenset[int]) -> int:
    """Where the groups of a match come to one of these numbers of digits, at the latest possible group; 0 if nowhere."""
    digits = end = 0
    for group in _GROUP_END.finditer(match[0]):
        digits += len(group[0])
        if digits in lengths:
            end = match.start() + group.end()
    return end
