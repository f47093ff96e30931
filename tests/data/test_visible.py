"""The cheap text sample of a page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sea_lion.data.visible import MAX_READ, visible_text

THAI = "ตลาดเช้าเล็ก ๆ ใกล้ทางรถไฟเปิดทุกวันตั้งแต่ตีห้า"
PAGE = f"""<!DOCTYPE html><html><head><title>Morning</title><style>p > a {{ color: red }}</style>
<script type="text/javascript">if (a < b && c > d) document.write("<p>hidden words in a script, quite a lot</p>")</SCRIPT>
</head><body><!-- a comment > with <p>hidden words in it, quite a lot of them</p> -->
<ul><li><a href="/">Home</a></li><li><a href="/news">News</a></li></ul>
<p class="x">{THAI}
   {THAI}</p><svg><text>hidden words in a picture, many of them</text></svg><p>a &amp; b&nbsp;&#3585;</p></body></html>"""


@pytest.mark.parametrize("page", [PAGE, PAGE.encode()], ids=["str", "bytes"])
def test_prose_comes_first_and_hidden_text_not_at_all(page: bytes | str) -> None:
    assert visible_text(page) == f"{THAI} {THAI} Morning Home News a & b ก"


def test_the_sample_ends_at_its_limit_and_needs_no_menu_for_it() -> None:
    assert visible_text(PAGE, 30) == THAI[:30]
    assert len(visible_text(f"<p>{THAI * 1000}</p>", 200)) == 200


def test_a_menu_is_better_than_nothing() -> None:
    menu = "".join(f"<li><a href='/{number}'>หมวด {number}</a></li>" for number in range(900))
    assert visible_text(menu).startswith("หมวด 0 หมวด 1 หมวด 2")


def test_what_nobody_closes_hides_nothing() -> None:
    assert visible_text(f"<script>var a = 1;<!-- <p>{THAI}</p>") == f"{THAI} var a = 1;"


def test_bytes_of_other_charsets_leave_the_rest_readable() -> None:
    assert visible_text(b"<p>The market opens at five o'clock, caf\xe9 and all.</p>").endswith("caf\ufffd and all.")


@given(st.text(alphabet="<>!-/ abscriptye&#;\u0e01\ud800\0", max_size=300))
def test_any_page_gives_a_sample_without_tags(page: str) -> None:
    sample = visible_text(page, 50)
    assert len(sample) <= 50 and not set(sample) & set("<>")


@pytest.mark.parametrize(
    "part", ["<", "<!--", "<script ", ">", "<p>", "<svg><style>", "> ", ">a", "</script", "<!-->", "&#1", "\n"]
)
def test_hostile_pages_cost_linear_time(part: str) -> None:
    """A scan in quadratic time would not come back from these for hours."""
    assert "<" not in visible_text(part * (MAX_READ // len(part)))


def test_a_reference_of_thousands_of_digits_is_survived() -> None:
    assert visible_text(f"<p>&#{'9' * 5000};</p>", 6000).startswith("&#99")
