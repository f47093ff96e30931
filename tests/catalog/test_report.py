"""The report: the whole site of a real index, two catalogs and models side by side, how it is written, and how it is drawn."""

from __future__ import annotations

import ctypes
import re
import shlex
import threading
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sea_lion.catalog.charts import line_chart, running_mean, thin, ticks
from sea_lion.catalog.errors import MissingArtifact, SeaLionError
from sea_lion.catalog.languages import LANGUAGES
from sea_lion.catalog.layout import layered
from sea_lion.catalog.markup import Html, inside, tag
from sea_lion.catalog.pages.frame import NAMES
from sea_lion.catalog.pages.parts import brief, duration, signed
from sea_lion.catalog.pages.plots import Scale, dot, reach, scale_of, span
from sea_lion.catalog.pages.questions import QUESTIONS
from sea_lion.catalog.pages.source import opened
from sea_lion.catalog.report import artifact_summary, site, write_report
from sea_lion.catalog.store import Store

from .page_reader import checked

ALONE = [name for name in NAMES if name != "compare.html"]


@pytest.fixture(scope="module")
def pages(filled: Store) -> dict[str, str]:
    return site(filled)


def test_the_pages_of_a_whole_lineage(pages: dict[str, str]) -> None:
    read = checked(pages)
    assert list(read) == ALONE
    assert "tiny-llama: from a crawl to a promoted model" in read["index.html"].text
    assert "5 of 8 candidates passed their gate" in read["index.html"].text
    assert "418 documents in = 218 out + 200 in the ledger" in read["corpus.html"].text
    signed_for = "Promoted under a waiver signed by A. Tan: the loss in Tamil is repaid by the final merge"
    assert signed_for in read["index.html"].text and signed_for in read["gates.html"].text
    assert "Not promoted; the stage keeps checkpoint/tiny-llama-sft-1@1" in read["gates.html"].text
    assert all(f"{part}%" in read["mixture.html"].text for part in ("sea 55.0", "english 25.0", "code 20.0"))
    headings = {name: re.findall("<h2>(.*?)</h2>", text) for name, text in pages.items()}
    assert headings["corpus.html"] == [
        "Tokens, by language and source", "What went in, what came out", "What survives, by language",
        "Why documents were removed",
    ]  # fmt: skip
    assert headings["evaluation.html"] == ["Bits per byte, by language", "Accuracy, by language"]
    assert headings["gates.html"] == ["Stages and verdicts", "Who signed for what", "The evidence"]
    assert len(headings["merges.html"]) == 3 and len(headings["mixture.html"]) == 2
    assert headings["training.html"] == ["Losses", "Loss by language", "Held-out text", "Pace", "The runs"]


def test_a_run_shows_its_losses_by_language_and_its_pace(pages: dict[str, str]) -> None:
    read = checked(pages)["training.html"]
    assert pages["training.html"].count('class="trend sk1"') == 2 * len(LANGUAGES), "a strip a language and pre-training run"
    first, last = re.findall(r"Thai: ([\d.]+) at first, ([\d.]+) nats a token at step 200", pages["training.html"])[0]
    assert float(first) > float(last) and f"{float(first):.2f} → {float(last):.2f}" in read.text
    assert "Thai web: checkpoint/tiny-llama-base@1" in pages["training.html"]
    assert "5,120" in read.text and "42.0%" in read.text and "61.00 GB" in read.text and "1.18" in read.text


def test_every_figure_leads_to_its_query(pages: dict[str, str]) -> None:
    for name in ALONE:
        if name == "questions.html":
            continue
        boxes = re.findall(r"<figcaption>(.*?)</figcaption>", pages[name])
        assert all('href="questions.html#' in box for box in boxes), name
        sections = pages[name].split("<section")[1:]
        without = [part[:60] for part in sections if "questions.html" not in part]
        assert without == [], name


def test_every_query_runs_as_it_is_shown(filled: Store, pages: dict[str, str]) -> None:
    commands = re.findall(r"<pre tabindex=\"0\"><code>(.*?)</code></pre>", pages["questions.html"], re.DOTALL)
    assert len(commands) == len(QUESTIONS)
    with opened(filled) as source:
        for command, (name, question) in zip(commands, QUESTIONS.items(), strict=True):
            given = shlex.split(unescape(command))
            assert given[:3] == ["sea-lion", "catalog", "sql"] and len(given) == 4
            assert given[3] == question.sql and not set(question.sql) & set('"$`\\!'), name
            assert source.connection.execute(given[3]).fetchall() == [tuple(row.values()) for row in source.ask(name)]


def test_nothing_is_loaded_from_anywhere(pages: dict[str, str]) -> None:
    for name, page in checked(pages).items():
        assert not {"script", "iframe", "img", "object", "embed", "form", "base", "link"} & set(page.elements)
        text = pages[name]
        assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text.replace("&#x27;", "'")
        style = text.split("<style>")[1].split("</style>")[0]
        assert "@import" not in style and "url(" not in style and "http" not in style
        assert set(re.findall(r"url\((.*?)\)", text)) <= {"#arrow"}


def test_every_verdict_is_a_word_beside_its_colour(pages: dict[str, str]) -> None:
    read = checked(pages)
    assert all(verdict in read["gates.html"].text for verdict in ("✓ pass", "✕ fail", "◐ hold", "! error"))
    assert "✓ pass, promoted" in read["lineage.html"].text and "✕ fail, promoted by waiver" in read["lineage.html"].text


def test_every_picture_has_a_title_and_is_well_formed(pages: dict[str, str]) -> None:
    count = 0
    for name in ALONE:
        body = pages[name][pages[name].index("<body>") : pages[name].index("</html>")]
        for picture in ElementTree.fromstring(body.replace("&nbsp;", " ")).iter("svg"):
            if picture.get("role") == "img":
                title = picture.find("title")
                assert title is not None and title.text, name
                count += 1
            for element in picture.iter():
                assert not [value for key, value in element.items() if key != "class" and re.search(r"\b(nan|inf)\b", value)]
    assert count > 100


def test_each_model_stands_beside_its_parent(pages: dict[str, str]) -> None:
    rows = re.findall(r"<tr><th scope=\"row\"><span class=\"ref\">(.*?)</span></th>(.*?)</tr>", pages["evaluation.html"])
    bits = dict(rows[:11])
    mean = {name: float(re.findall(r"<td[^>]*>([\d.]+)", cells)[0]) for name, cells in bits.items()}
    change = re.findall(r"<small>(.) ([\d.]+)</small>", bits["tiny-llama-it@1"])[0]
    expected = mean["tiny-llama-it@1"] - mean["tiny-llama-base@1"]  # the base of the last merge, not its first parent
    assert change[0] == "▼"
    assert -float(change[1]) == pytest.approx(expected, abs=0.0011)
    assert "<small>" not in bits["tiny-llama-init@1"]


def test_two_catalogs_side_by_side(filled: Store, filler: Any) -> None:
    filler.data()
    text = checked(site(filled, Store(filler.store.root)))["compare.html"].text
    assert "checkpoint: artifacts 11 0 −11" in text
    assert "Tokens by language" in text and "Removed by each stage" in text
    same = checked(site(filled, filled))["compare.html"].text
    assert "Scores at the stage tiny-llama/final" in same and "documents kept 218 218 0" in same


def test_two_models_side_by_side(filled: Store) -> None:
    made = site(filled, models=("checkpoint/tiny-llama-cpt@1", "stage:tiny-llama/final"))
    text = checked(made)["compare.html"].text
    assert "A is checkpoint/tiny-llama-cpt@1 , B is checkpoint/tiny-llama-it@1" in text
    row = re.search(
        r"<tr><th scope=\"row\">Thai</th><td>([\d.]+) ± [\d.]+</td><td>([\d.]+) ± [\d.]+</td><td class=\"n\">(.)([\d.]+)</td>",
        made["compare.html"],
    )
    assert row is not None
    change = float(row[4]) * (-1 if row[3] == "−" else 1)
    assert change == pytest.approx(float(row[2]) - float(row[1]), abs=2e-4)
    assert "della_linear" in text and "Licences inherited" in text and "Data consumed" in text
    with pytest.raises(MissingArtifact):
        site(filled, models=("checkpoint/none@1", "stage:tiny-llama/final"))
    with pytest.raises(SeaLionError, match="corpus/tiny@1: is a corpus, not a model"):
        site(filled, models=("corpus/tiny@1", "stage:tiny-llama/final"))


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "renameat2"), reason="the system cannot swap two folders in one step")
def test_a_reader_never_meets_half_a_site(
    filled: Store, pages: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, made = tmp_path / "deep" / "report", pages
    monkeypatch.setattr("sea_lion.catalog.report.site", lambda *_: made)
    assert write_report(filled, folder) == folder / "index.html"
    seen: list[bool] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            texts = [(folder / name).read_text("utf-8") for name in made]
            seen.append(all(text.endswith("</html>\n") for text in texts))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        write_report(filled, folder)
    done.set()
    reader.join()
    assert all(seen) and len(seen) > 1
    assert sorted(path.name for path in folder.parent.iterdir()) == ["report"]


@pytest.mark.parametrize("swap", [True, False], ids=["in one step", "in two"])
def test_an_earlier_site_is_replaced_whole(
    filled: Store, pages: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: bool
) -> None:
    if not swap:
        monkeypatch.setattr("sea_lion.catalog.report._exchanged", lambda a, b: False)
    for made in (pages | {"compare.html": pages["index.html"]}, pages):
        monkeypatch.setattr("sea_lion.catalog.report.site", lambda *_, made=made: made)
        write_report(filled, tmp_path / "report")
        assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(made)


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (lambda folder: (folder.mkdir(), (folder / "thesis.txt").write_text("x")), "holds 'thesis.txt', which no report wrote"),
        (
            lambda folder: (folder.mkdir(), (folder / "index.html").write_text("my page")),
            "holds 'index.html', which no report wrote",
        ),
        (lambda folder: folder.write_text("x"), "is a file; the report is a folder of pages"),
        (lambda folder: folder.symlink_to(folder.parent), "is a link"),
    ],
    ids=["a thesis", "somebody's page", "a file", "a link"],
)
def test_what_no_report_wrote_is_not_replaced(
    filled: Store, tmp_path: Path, prepare: Callable[[Path], Any], problem: str
) -> None:
    folder = tmp_path / "report"
    prepare(folder)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(SeaLionError, match=problem):
        write_report(filled, folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_summary_of_one_artifact(filled: Store) -> None:
    text = artifact_summary(filled, filled.require("stage:tiny-llama/merge-2"))
    assert "checkpoint/tiny-llama-merge-2@1  (checkpoint)" in text
    assert "base: checkpoint/tiny-llama-merge-1@1  [stage tiny-llama/merge-1: promotion/tiny-llama/merge-1@1]" in text
    assert 'method: "consensus_ta"' in text
    shards = artifact_summary(filled, filled.require("mixture/tiny@1"))
    assert "parts: 12" in shards and "part sea" in shards


def test_markup_escapes_all_but_markup() -> None:
    assert tag("p", "a<b", tag("i", "&"), title='"', class_=None) == '<p title="&quot;">a&lt;b<i>&amp;</i></p>'
    assert inside("<", [Html("<br>"), 1.25, 3]) == "&lt;<br>1.2" + "3"
    assert tag("br") == "<br>"
    assert tag("p", "\ud800\u202e", title="\x00") == '<p title="\\x00">\\ud800\\u202e</p>'
    assert tag("p", "ខ្ញុំ\u200d\u200c\n\t") == "<p>ខ្ញុំ\u200d\u200c\n\t</p>"


def test_ticks_are_round_and_within() -> None:
    assert ticks(0.0, 1.0, 4) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(-0.11, 0.03, 6) == [-0.1, -0.075, -0.05, -0.025, 0.0, 0.025]
    assert ticks(2.0, 2.0, 4) == [2.0]
    for low, high in ((1.0, 1e6), (-3e-5, 1e-5), (99.0, 101.0)):
        found = ticks(low, high, 5)
        assert 3 <= len(found) <= 9 and low <= found[0] and found[-1] <= high


def test_curves() -> None:
    assert running_mean([1.0, 3.0, 5.0], 2) == [1.0, 2.0, 4.0]
    points = thin([float(i) for i in range(1001)], [0.0] * 1001)
    assert len(points) <= 260 and points[0] == (0.0, 0.0) and points[-1] == (1000.0, 0.0)
    assert "polyline" in line_chart("constant", [1, 2], [3.0, 3.0])
    both = line_chart("t", [1, 2], [3.0, 4.0], low=[2.0, 2.0], high=[5.0, 5.0], rates=[None, 0.1], broken=[3])
    assert 'class="band"' in both and 'class="lr"' in both and 'class="cross"' in both


def test_marks_stay_on_their_scale() -> None:
    scale = Scale(0.0, 4.0)
    assert [scale.at(value) for value in (-1.0, 1.0, 9.0)] == ["0.00%", "25.00%", "100.00%"]
    assert span("k1", scale, 1.0, 3.0) == '<rect class="fk1" x="25.00%" width="50.00%" y="4" height="12"></rect>'
    assert span("k1", scale, 1.0, 1.0) is None and dot(0, scale, None) is None and dot(0, scale, float("nan")) is None
    assert reach("k1", scale, float("nan"), 1.0) is None
    assert scale_of([]) == Scale(-0.06, 1.06) and scale_of([0, 0], zero=True) == Scale(0.0, 1.0)
    assert scale_of([float("inf"), 2.0, None], zero=True) == Scale(0.0, 2.0)


def test_numbers_in_few_characters() -> None:
    assert [brief(n) for n in (0, 812, 9_999, 64_300, 2_510_000, 1.2e12)] == ["0", "812", "9,999", "64.3 k", "2.51 M", "1.2 T"]
    assert [signed(n) for n in (-1234.0, 3.0, 0.2, 0.0)] == ["−1,234", "+3", "0", "0"]
    assert [duration(s) for s in (4.2, 131, 7300)] == ["4.2 s", "2 min 11 s", "2 h 1 min"]


def test_layers_go_down_and_nodes_do_not_overlap() -> None:
    edges = [("a", "b"), ("b", "c"), ("a", "c"), ("d", "c"), ("c", "e"), ("a", "e"), ("f", "e"), ("b", "g"), ("g", "e")]
    layout = layered(dict.fromkeys("abcdefg", 100.0), edges, ["a", "b", "d", "c", "f", "g", "e"], gap=20.0)
    assert all(layout.layer[source] < layout.layer[target] for source, target in edges)
    assert layout.layer["d"] == layout.layer["c"] - 1 and layout.layer["f"] == layout.layer["e"] - 1
    for one in "abcdefg":
        assert 50 - 1e-6 <= layout.x[one] <= layout.width - 50 + 1e-6
        for other in "abcdefg":
            if one < other and layout.layer[one] == layout.layer[other]:
                assert abs(layout.x[one] - layout.x[other]) >= 120 - 1e-6
    for (source, target), route in layout.routes.items():
        assert [layer for layer, _ in route] == list(range(layout.layer[source], layout.layer[target] + 1))
    assert layered({}, [], [], gap=20.0).layers == 0
