"""Masking of personal data."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_lion.data.privacy import mask

PHONES = (
    "+62 812-3456-7890", "0812-3456-7890", "081234567890", "+60 12-345 6789", "03-2161 4890", "081-234-5678", "02 123 4567",
    "+66 81 234 5678", "0912 345 678", "+84 912 345 678", "0917 123 4567", "+63 917 123 4567", "09-260098741",
    "+95 9 260098741", "012 345 678", "020 5555 1234", "9123 0045", "+65 6123 4567", "138 1234 5678", "13812345678",
    "98765 43210", "+91 98765 43210", "(02) 123 4567", "๐๘๑-๒๓๔-๕๖๗๘", "၀၉-၂၆၀၀၉၈၇၄၁",
)  # fmt: skip
SAFE = (
    "2024-05-06", "06/05/2024", "01-02-2024 10:30", "0.123456789", "1,234,567,890", "12:30:45", "127.0.0.1", "192.168.1.1",
    "3.14159265358979", "1990-2000", "RM 1200", "100000 บาท", "ISBN", "v1.2", "10:30", "user@", "@name", "50-60 %",
)  # fmt: skip


@pytest.mark.parametrize("number", PHONES)
@pytest.mark.parametrize("around", ["{}", "โทร.{} ครับ", "电话{}。", "Telp: {}, buka", "call {} now"])
def test_phone_numbers_are_masked(number: str, around: str) -> None:
    masked = mask(around.format(number))
    assert masked.text == around.format("[PHONE]") and masked.counts["phone"] == 1


@pytest.mark.parametrize("text", SAFE)
def test_other_figures_stay(text: str) -> None:
    assert mask(f"di {text} dan").text == f"di {text} dan"


def test_a_price_behind_a_number_stays() -> None:
    assert mask("โทร 081-234-5678 100 บาท").text == "โทร [PHONE] 100 บาท"


@pytest.mark.parametrize("around", ["{}", "อีเมล{}ครับ", "请写信到{}。", "surat ke <{}>."])
def test_addresses_are_masked_also_when_they_touch_letters(around: str) -> None:
    masked = mask(around.format("siti.b+kedai@pasar-harian.example"))
    assert masked.text == around.format("[EMAIL]") and masked.counts == {"email": 1, "ip": 0, "phone": 0}


def test_public_ip_addresses_only() -> None:
    masked = mask("dari 8.8.8.8 dan 2001:4860:4860::8888, bukan 10.0.0.1 atau ::1.")
    assert masked.text == "dari [IP] dan [IP], bukan 10.0.0.1 atau ::1." and masked.counts["ip"] == 2


@given(st.text(st.sampled_from("0189+-. ()@ab๐ก中.:/[]"), max_size=60))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    once = mask(text)
    assert mask(once.text).text == once.text


@given(st.text(st.characters(exclude_categories=["Nd"], exclude_characters="@:")))
def test_text_without_figures_and_signs_is_untouched(text: str) -> None:
    assert mask(text).text == text and not any(mask(text).counts.values())


@pytest.mark.parametrize("piece", ["a.", "a-", "0-", "+0 ", "1.", "a@", "(0", ":", "a@a.", "0 12 ", "1:"])
def test_hostile_runs_take_linear_time(piece: str) -> None:
    start = time.process_time()
    mask(piece * 100_000)
    assert time.process_time() - start < 5
