"""The charset rule."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_lion.data.charset import decode

THAI = "ตลาดเช้าเล็ก ๆ ใกล้ทางรถไฟเปิดทุกวันตั้งแต่ตีห้า แม่ค้าเอาผักสด ปลา และข้าวสารมาวางขายบนโต๊ะไม้"
CHINESE = "早上五点，天还没亮，楼下的巴刹已经亮起了灯。卖菜的林阿姨把青菜一把一把地摆好，又在菜叶上洒一点水。"
VIETNAMESE = "Thư viện của thị trấn là một ngôi nhà hai tầng sơn vàng, nằm dưới hàng cây phượng."


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff\ufffe")))
def test_utf8_comes_back_whatever_is_declared(text: str) -> None:
    decoded = decode(text.encode(), "text/html; charset=tis-620", "gb18030")
    assert decoded is not None and decoded.text == unicodedata.normalize("NFC", text)


@given(st.text(st.characters(min_codepoint=0x0E01, max_codepoint=0x0E3A), min_size=30), st.integers(0, 29))
def test_one_bad_byte_does_not_lose_a_utf8_page(text: str, at: int) -> None:
    damaged = text[:at].encode() + b"\xff" + text[at:].encode()
    decoded = decode(damaged, "text/html; charset=windows-1252")
    assert decoded is not None and decoded.rule == "near-utf-8"
    assert decoded.text == unicodedata.normalize("NFC", f"{text[:at]}\ufffd{text[at:]}")


@given(st.binary(max_size=400), st.sampled_from(["", "utf-8", "tis-620", "gb2312", "rot13", "zip", "utf-7", "x" * 99, "\0"]))
def test_any_bytes_give_normal_text_or_nothing(payload: bytes, name: str) -> None:
    decoded = decode(payload, f"text/html; charset={name}", name)
    if decoded is not None:
        assert unicodedata.is_normalized("NFC", decoded.text) and "\0" not in decoded.text
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
