"""The charset rule."""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_lion.data.charset import CHARSETS, TABLES, decode
from sea_lion.data.scripts import unicode_burmese

GOLDEN = Path(__file__).parents[1] / "golden" / "charsets"
"""Pages in old charsets, and the same in UTF-8. The bytes were made by others' code: glibc's iconv (VISCII, TCVN, windows-1258,
TIS-620, GB18030, Big5), the npm package vietnamese-conversion 2.0.0 (VNI) and ICU's transliterator my-Zawgyi."""

THAI = "ตลาดเช้าเล็ก ๆ ใกล้ทางรถไฟเปิดทุกวันตั้งแต่ตีห้า แม่ค้าเอาผักสด ปลา และข้าวสารมาวางขายบนโต๊ะไม้"
CHINESE = "早上五点，天还没亮，楼下的巴刹已经亮起了灯。卖菜的林阿姨把青菜一把一把地摆好，又在菜叶上洒一点水。"
VIETNAMESE = "Thư viện của thị trấn là một ngôi nhà hai tầng sơn vàng, nằm dưới hàng cây phượng."


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff\ufffe")))
def test_utf8_comes_back_whatever_is_declared(text: str) -> None:
    decoded = decode(text.encode(), "text/html; charset=tis-620", "gb18030")
    assert decoded is not None and decoded.text == text


@given(st.text(st.characters(min_codepoint=0x0E01, max_codepoint=0x0E3A), min_size=30), st.integers(0, 29))
def test_one_bad_byte_does_not_lose_a_utf8_page(text: str, at: int) -> None:
    damaged = text[:at].encode() + b"\xff" + text[at:].encode()
    decoded = decode(damaged, "text/html; charset=windows-1252")
    assert decoded is not None and decoded.rule == "near-utf-8"
    assert decoded.text == f"{text[:at]}\ufffd{text[at:]}"


@given(st.binary(max_size=400), st.sampled_from(["", "utf-8", "tis-620", "gb2312", "rot13", "zip", "utf-7", "x" * 99, "\0"]))
def test_any_bytes_give_text_or_nothing(payload: bytes, name: str) -> None:
    decoded = decode(payload, f"text/html; charset={name}", name)
    if decoded is not None:
        assert "\0" not in decoded.text
        decoded.text.encode("utf-8")


@pytest.mark.parametrize(
    ("payload", "header", "noted", "charset", "rule"),
    [
        (THAI.encode("tis-620"), "text/html; charset=TIS-620", "", "cp874", "declared"),
        (THAI.encode("cp874"), "text/html", "TIS-620", "cp874", "detected"),
        (THAI.encode("cp874"), "text/html; charset=iso-8859-1", "", "cp874", "detected"),
        (b'<meta charset="gb2312">' + CHINESE.encode("gb18030"), "text/html", "", "gb18030", "declared"),
        (CHINESE.encode("gb18030"), "", "", "gb18030", "detected"),
        (CHINESE.encode("big5", "ignore"), "text/html; charset=big5", "", "big5hkscs", "declared"),
        (VIETNAMESE.encode("utf-16"), "text/html; charset=utf-8", "", "utf-16-le", "bom"),
        (b"\xef\xbb\xbf" + THAI.encode(), "text/html; charset=tis-620", "", "utf-8", "bom"),
        (THAI.encode()[:-1], "text/html; charset=tis-620", "", "utf-8", "near-utf-8"),
    ],
)
def test_order_of_the_rule(payload: bytes, header: str, noted: str, charset: str, rule: str) -> None:
    decoded = decode(payload, header, noted)
    assert decoded is not None and (decoded.charset, decoded.rule) == (charset, rule)
    assert any(text[:20] in decoded.text for text in (THAI, VIETNAMESE, CHINESE[:20])) or charset == "big5hkscs"


def test_tone_marks_apart_are_put_together() -> None:
    marks = unicodedata.normalize("NFD", "sáng").encode("cp1258")
    decoded = decode(marks, "text/html; charset=windows-1258")
    assert decoded is not None and decoded.text == "sáng"


@pytest.mark.parametrize(
    ("name", "charset", "rule"),
    [
        ("tis-620", "cp874", "declared"),
        ("viscii", "viscii", "declared"),
        ("tcvn3", "tcvn3", "declared"),
        ("vni", "vni", "detected"),
        ("windows-1258", "cp1258", "declared"),
        ("gb18030", "gb18030", "declared"),
        ("big5", "big5hkscs", "declared"),
        ("zawgyi", "utf-8", "utf-8"),
    ],
)
@pytest.mark.parametrize("header", ["text/html", "text/html; charset=ISO-8859-1"])
def test_golden_pages(name: str, charset: str, rule: str, header: str) -> None:
    payload, expected = (GOLDEN / f"{name}.html").read_bytes(), (GOLDEN / f"{name}.txt").read_text("utf-8")
    bare, bare_expected = re.sub(b"<meta[^>]*>", b"", payload), re.sub("<meta[^>]*>", "", expected)
    for page, text, how in ((payload, expected, rule), (bare, bare_expected, rule.replace("declared", "detected"))):
        decoded = decode(page, header)
        assert decoded is not None and (decoded.charset, decoded.rule) == (charset, how)
        assert (unicode_burmese(decoded.text) if name == "zawgyi" else (decoded.text, True)) == (text, True)


def test_every_letter_of_vietnamese_is_in_the_tables() -> None:
    letters = set(map(chr, range(0x1EA0, 0x1EFA))) | set("ĂăĐđĨĩŨũƠơƯư")
    assert all(len(table) == 256 for table in TABLES.values())
    assert letters <= set(TABLES["viscii"])
    assert {letter for letter in letters if letter.islower()} <= set(TABLES["tcvn3"])


@pytest.mark.parametrize(
    ("vni", "letters"), [("yù yø yû yõ î YÛ", "ý ỳ ỷ ỹ ỵ Ỷ"), ("í ì æ ó ò", "í ì ỉ ĩ ị"), ("Ñöôùc öï", "Đước ự")]
)
def test_letters_of_vni(vni: str, letters: str) -> None:
    decoded = decode(vni.encode("cp1252"), "text/html; charset=x-vni")
    assert decoded is not None and decoded.text == letters


@pytest.mark.parametrize(
    ("text", "charset"),
    [
        ("L'été dernier, où la forêt brûlait, les élèves français étaient là: «à bientôt», dit le garçon déçu.", "cp1252"),
        ("Não há lugar são e só; a mãe já não vê o avô, é a razão da solidão, é a ilusão: não, não, também não.", "cp1252"),
        (
            "Yötä päivää, hyvää syntymäpäivää, äiti ja isä söivät leipää ja näkivät järven, mitä he eivät nähneet ennen.",
            "cp1252",
        ),
        ("Наступило утро, и люди пошли на рынок за хлебом, молоком и рыбой, а дети ещё спали в своих кроватях.", "cp1251"),
        (
            "새벽 다섯 시 시장에는 벌써 불이 켜졌다. 채소를 파는 아주머니는 채소에 물을 뿌리고 생선 가게도 문을 열었다.",
            "euc_kr",
        ),
    ],
)
def test_other_languages_are_not_taken_for_ours(text: str, charset: str) -> None:
    decoded = decode(text.encode(charset))
    assert decoded is not None
    assert decoded.charset not in {"cp874", "cp1258", "viscii", "tcvn3", "vni", "gb18030", "big5hkscs"}


@pytest.mark.parametrize("charset", ["utf-16-le", "utf-16-be"])
def test_utf16_shows_without_a_mark(charset: str) -> None:
    decoded = decode(f"<p>{THAI}</p>".encode(charset), "text/html; charset=utf-8")
    assert decoded is not None and (decoded.text, decoded.rule) == (f"<p>{THAI}</p>", "utf-16")


def test_every_charset_has_a_codec() -> None:
    own = {*TABLES, "vni"}
    assert all(codec in own or codecs.lookup(codec) for codec in CHARSETS.values())


def test_text_far_down_a_page_decides() -> None:
    page = b"<script>" + b"var a = 1;\n" * 20_000 + b"</script><p>" + THAI.encode("cp874")
    decoded = decode(page)
    assert decoded is not None and decoded.charset == "cp874" and THAI in decoded.text
