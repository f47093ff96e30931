"""Masking of personal data."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_lion.data.identifiers import is_singaporean
from sea_lion.data.privacy import KINDS, mask

PHONES = (
    "+62 812-3456-7890", "0812-3456-7890", "081234567890", "+60 12-345 6789", "03-2161 4890", "081-234-5678", "02 123 4567",
    "+66 81 234 5678", "0912 345 678", "+84 912 345 678", "0917 123 4567", "+63 917 123 4567", "09-260098741",
    "+95 9 260098741", "012 345 678", "020 5555 1234", "9123 0045", "+65 6123 4567", "138 1234 5678", "13812345678",
    "98765 43210", "+91 98765 43210", "(02) 123 4567", "๐๘๑-๒๓๔-๕๖๗๘", "၀၉-၂၆၀၀၉၈၇၄၁", "០១២ ៣៤៥ ៦៧៨", "໐໒໐ ໕໕໕໕ ໑໒໓໔",
)  # fmt: skip
IDENTIFIERS = (
    "3174012501900001", "3174 0125 0190 0001", "317401-650190-0001",  # Indonesian NIK; the third a woman's, day + 40
    "880101-14-5675",  # MyKad
    "1-1017-00230-70-8", "1101700230708", "๑-๑๐๑๗-๐๐๒๓๐-๗๐-๘",  # Thai
    "11010519491231002X", "11010519491231002x",  # Chinese
    "S1234567D", "T1234567J", "F1234567N", "G1234567X", "M1234567K",  # Singapore
    "2341 2341 2346",  # Aadhaar
    "AAPPC1234F",  # PAN
    "34-1234567-8", "0111-1234567-8", "12-345678901-2",  # Philippine SSS, UMID, PhilHealth
    "12/OUKAMA(N)123456", "၁၂/ဥကမ(နိုင်)၁၂၃၄၅၆", "9/MaHaMa(Naing)001234",  # Myanmar NRC
)  # fmt: skip
NAMED = (
    "CCCD: {001099012345}", "CMND số {012345678}", "số căn cước công dân là {079 099 012 345}", "NIK {9999999999999999}",
    "No. KP: {880101145675}", "IC {880101 14 5675}", "PhilSys {1234-5678-9012-3456}", "TIN: {123-456-789-000}",
    "เลขประจำตัวประชาชน {1234567890123}", "Aadhaar no. {234123412346}", "ஆதார் எண் {234123412346}",
    "ເລກບັດປະຈຳຕົວ {12345678901}", "អត្តសញ្ញាណប័ណ្ណលេខ {០១២៣៤៥៦៧៨}", "身份证号码：{110105491231002}",
)  # fmt: skip
CARDS = (
    "4111 1111 1111 1111", "4111111111111111", "4111-1111-1111-1111", "5555 5555 5555 4444", "2223003122003222",
    "378282246310005", "3782 822463 10005", "3530111333300000", "6212345678901232", "6011111111111117", "๔๑๑๑ ๑๑๑๑ ๑๑๑๑ ๑๑๑๑",
)  # fmt: skip
SAFE = (
    "2024-05-06", "06/05/2024", "01-02-2024 10:30", "0.123456789", "1,234,567,890", "12:30:45", "127.0.0.1", "192.168.1.1",
    "3.14159265358979", "1990-2000", "RM 1200", "100000 บาท", "ISBN", "v1.2", "10:30", "user@", "@name", "50-60 %",
    "ISBN 978-602-8519-93-9", "ISBN 9786028519939", "ISBN: 6028519938", "ISSN 0317-8471", "8850987101007", "20240506123000",
    "1234567890123456", "4111 1111 1111 1112", "880101145675", "001099012345", "-6.200000, 106.816666", "13.7563, 100.5018",
    "versi 10.0.19045.3", "v8.8.8.8", "1.2.3.4", "pasal 3.1.4.2", "550e8400-e29b-41d4-a716-446655440000",
    "https://berita.example/2024/05/06/3174012501900001", "?id=1101700230708", "S1234567A", "Rp 1.250.000.000", "US$ 12,500.00",
    "2,147,483,647", "1 000 000 000", "880101-99-99", "2019/2020", "0.5-0.75", "12 345 678 orang", "#3174012501900001",
    "1101700230704", "110105194912310021", "2341 2341 2341", "AAPXC1234F", "pukul 08.00-17.00", "1.1017.00230.70",
)  # fmt: skip


@pytest.mark.parametrize("number", PHONES)
@pytest.mark.parametrize("around", ["{}", "โทร.{} ครับ", "电话{}。", "Telp: {}, buka", "call {} now", "a@b.co {}", "โทร ({})"])
def test_phone_numbers_are_masked(number: str, around: str) -> None:
    masked = mask(around.format(number), ["phone"])
    assert masked.text == around.format("[PHONE]") and masked.counts["phone"] == 1


@pytest.mark.parametrize("language", ["", "ind", "zsm", "mya", "eng", "fra"])
def test_the_language_changes_only_the_order_of_the_plans(language: str) -> None:
    for number in PHONES:
        assert mask(number, language=language).text == "[PHONE]"


@pytest.mark.parametrize("number", IDENTIFIERS)
@pytest.mark.parametrize("around", ["{}", "เลข{}ครับ", "号码{}。", "KTP: {}, aktif", "no. {} ok"])
def test_identity_numbers_are_masked(number: str, around: str) -> None:
    masked = mask(around.format(number))
    assert masked.text == around.format("[ID]") and masked.counts["id"] == 1


@pytest.mark.parametrize("text", NAMED)
def test_numbers_that_prove_nothing_are_masked_behind_their_name(text: str) -> None:
    before, number = text.rstrip("}").split("{")
    assert mask(f"{before}{number}, 5").text == f"{before}[ID], 5"
    assert "[ID]" not in mask(f"{number}, 5").text


@pytest.mark.parametrize("number", CARDS)
@pytest.mark.parametrize("around", ["{}", "บัตร{}ครับ", "卡号{}。", "kartu {}, aktif"])
def test_cards_are_masked(number: str, around: str) -> None:
    masked = mask(around.format(number))
    assert masked.text == around.format("[CARD]") and masked.counts["card"] == 1


@pytest.mark.parametrize("text", SAFE)
@pytest.mark.parametrize("around", ["di {} dan", "{}"])
def test_other_figures_stay(text: str, around: str) -> None:
    assert mask(around.format(text)).text == around.format(text)


def test_numbers_of_no_plan_stay() -> None:
    for text in ("0999999999999", "0000000000", "+999 123456789", "00 12345678901"):
        assert mask(text).text == text


def test_what_follows_a_number_is_looked_at_anew() -> None:
    assert mask("โทร 081-234-5678 100 บาท").text == "โทร [PHONE] 100 บาท"
    assert mask("WA 0812-3456-7890/0813-3456-7891 0812-3456-7892").text == "WA [PHONE]/[PHONE] [PHONE]"
    assert mask("3174012501900001 4111111111111111 081-234-5678").text == "[ID] [CARD] [PHONE]"


def test_a_long_run_of_numbers_is_masked_to_its_end() -> None:
    masked = mask("0812-3456-7890 " * 1000 + "12 " * 2000 + "3174012501900001")
    assert masked.counts["phone"] == 1000 and masked.text == "[PHONE] " * 1000 + "12 " * 2000 + "[ID]"


@pytest.mark.parametrize("around", ["{}", "อีเมล{}ครับ", "请写信到{}。", "surat ke <{}>."])
def test_addresses_are_masked_also_when_they_touch_letters(around: str) -> None:
    masked = mask(around.format("siti.b+kedai@pasar-harian.example"))
    assert masked.text == around.format("[EMAIL]")
    assert masked.counts == {"email": 1, "ip": 0, "phone": 0, "id": 0, "card": 0}


def test_public_ip_addresses_only() -> None:
    masked = mask("dari 8.8.8.8 dan 2001:4860:4860::8888, bukan 10.0.0.1 atau ::1.")
    assert masked.text == "dari [IP] dan [IP], bukan 10.0.0.1 atau ::1." and masked.counts["ip"] == 2
    assert mask("จาก 203.0.114.25 ถึง").text == "จาก [IP] ถึง"


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_kinds_asked_for(kind: str) -> None:
    parts = {"email": "a@b.co", "ip": "203.0.114.25", "phone": "0812-3456-7890", "id": "S1234567D", "card": "4111111111111111"}
    masked = mask(" | ".join(parts.values()), [kind])
    assert masked.text == " | ".join(f"[{kind.upper()}]" if name == kind else part for name, part in parts.items())
    assert masked.counts == {name: int(name == kind) for name in KINDS}


def test_one_check_letter_in_eleven_is_right() -> None:
    letters = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if is_singaporean(f"S1234567{letter}")]
    assert letters == ["D"]


@given(st.text(st.sampled_from("0189+-. ()@ab๐ก中.:/[]"), max_size=60))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    once = mask(text)
    assert mask(once.text).text == once.text


@given(
    st.lists(
        st.sampled_from([*PHONES, *IDENTIFIERS, *CARDS, *SAFE, "CCCD", "NIK", "-", "/", " ", ". ", ", ", "ก", "x", "7", "0"]),
        max_size=9,
    )
)
def test_masking_a_heap_of_numbers_twice_changes_nothing_more(parts: list[str]) -> None:
    once = mask("".join(parts))
    assert mask(once.text).text == once.text


@given(st.text(st.characters(exclude_categories=["Nd"], exclude_characters="@:")))
def test_text_without_figures_and_signs_is_untouched(text: str) -> None:
    assert mask(text).text == text and not any(mask(text).counts.values())


@pytest.mark.parametrize(
    "piece",
    ["a.", "a-", "0-", "+0 ", "1.", "a@", "(0", ":", "a@a.", "0 12 ", "1:", "0812345678 ", "4111 1111 ", "9", "12/O(",
     "CCCD 1 ", "A1234567", "1 ", "NIK ", "([", "1.1.1.1"],
)  # fmt: skip
def test_hostile_runs_take_linear_time(piece: str) -> None:
    start = time.process_time()
    mask(piece * 10_000)
    assert time.process_time() - start < 20
