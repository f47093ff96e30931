"""The report: whole pages from real indexes, also of stores that hold little, and of what tries to break out."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sea_lion.catalog.charts import Interval, forest, line_chart, running_mean, thin, ticks
from sea_lion.catalog.layout import layered
from sea_lion.catalog.markup import VOID, Html, inside, tag
from sea_lion.catalog.records import Checkpoint, Conversations
from sea_lion.catalog.report import artifact_summary, duration, page, write_report
from sea_lion.catalog.store import Store
from sea_lion.data.chat_recipe import ConversationsRecipe
from sea_lion.training.recipe import InitRecipe


class Checked(HTMLParser):
    """Reads a page, insists that every element is closed in order, and keeps what a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.elements: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        given = dict(attrs)
        assert len(given) == len(attrs), f"an attribute twice in <{tag}>"
        self.loads += [
            str(given[name]) for name in ("src", "srcset", "data", "xlink:href", "poster", "action") if name in given
        ]
        if tag == "link":
            self.loads.append(str(given.get("href")))
        if tag == "a":
            self.links.append(str(given.get("href")))
        if "id" in given:
            self.ids.append(str(given["id"]))
        assert not any(name.startswith("on") for name in given), "no script, in attributes neither"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_page_of_a_whole_lineage(filled: Store, tmp_path: Path) -> None:
    path = write_report(filled, tmp_path / "deep" / "report.html")
    text = path.read_text("utf-8")
    checked = Checked(text)
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert headings == [
        "Lineage", "Stages and verdicts", "Tokens, by language and source", "What was removed, and why",
        "The mixture, planned and trained", "Training losses", "Bits per byte, by language", "Accuracy, by language",
        "The gates’ evidence", "Provenance", "Where to read more",
    ]  # fmt: skip
    assert "tiny-llama: from a crawl to a promoted model" in checked.text
    assert "5 of 8 candidates passed their gate" in checked.text
    assert "418 documents in = 218 out + 200 in the ledger" in checked.text
    assert "Promoted under a waiver signed by A. Tan: the loss in Tamil is repaid by the final merge" in checked.text
    assert "Not promoted; the stage keeps checkpoint/tiny-llama-sft-1@1" in checked.text
    assert "sea 55.0%" in checked.text and "english 25.0%" in checked.text and "code 20.0%" in checked.text
    assert all(link.startswith("#") and link[1:] in checked.ids for link in checked.links)
    assert len(set(checked.ids)) == len(checked.ids)


def test_nothing_is_loaded_from_anywhere(filled: Store) -> None:
    text = page(filled)
    checked = Checked(text)
    assert checked.loads == []
    assert not {"script", "iframe", "img", "object", "embed", "form", "base"} & set(checked.elements)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text.replace("&#x27;", "'")
    style = text.split("<style>")[1].split("</style>")[0]
    assert "@import" not in style and "url(" not in style and "http" not in style
    assert set(re.findall(r"url\((.*?)\)", text)) <= {"#arrow"}


def test_every_verdict_is_a_word_beside_its_colour(filled: Store) -> None:
    checked = Checked(page(filled))
    for verdict in ("✓ pass", "✕ fail", "◐ hold", "! error"):
        assert verdict in checked.text
    assert "✓ pass, promoted" in checked.text and "✕ fail, promoted by waiver" in checked.text


def test_every_picture_has_a_title_and_is_well_formed(filled: Store) -> None:
    text = page(filled)
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) > 10
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert root.get("role") == "img"
        title = root.find("title")
        assert title is not None and title.text == root.get("aria-label")
        assert "nan" not in re.findall(r'[xyd]="([^"]*)"', picture)


def test_each_model_stands_beside_its_parent(filled: Store) -> None:
    rows = re.findall(r"<tr><th scope=\"row\" class=\"ref\">(.*?)</th>(.*?)</tr>", page(filled))
    bits = dict(rows[:11])
    mean = {name: float(re.findall(r"<td[^>]*>([\d.]+)", cells)[0]) for name, cells in bits.items()}
    change = re.findall(r"<small>(.) ([\d.]+)</small>", bits["tiny-llama-it@1"])[0]
    expected = mean["tiny-llama-it@1"] - mean["tiny-llama-base@1"]  # the base of the last merge, not its first parent
    assert change[0] == "▼"
    assert -float(change[1]) == pytest.approx(expected, abs=0.0011)
    assert "<small>" not in bits["tiny-llama-init@1"]


@pytest.mark.parametrize("what", ["nothing", "corpus", "data", "one model"])
def test_a_store_with_little_in_it_still_gives_a_page(filler: Any, what: str) -> None:
    if what == "corpus":
        filler.corpus()
    if what in ("data", "one model"):
        filler.data()
    if what == "one model":
        fields = {"kind": "init", "name": "checkpoint/a", "tokenizer": "tokenizer/tiny@1", "architecture": "llama"}
        sizes = ("hidden_size", "intermediate_size", "layers", "heads", "key_value_heads", "head_dim", "max_length")
        body = Checkpoint(stage="init", architecture="LlamaForCausalLM", parameters=1)
        filler.put(InitRecipe, fields | dict.fromkeys(sizes, 8), body)
    checked = Checked(page(filler.store))
    title = {"nothing": "Nothing made yet", "one model": "Models made, none promoted yet"}
    assert title.get(what, "Data, on the way to a model") in checked.text
    assert ("removal ledger" in checked.text) == (what != "nothing")
    assert "Where to read more" in checked.text


HOSTILE = """</style></title><script>alert(1)</script><img src="http://x.test/a.png" onerror='x'>&"""


def test_hostile_strings_stay_strings(filler: Any) -> None:
    fields = {"kind": "conversations", "name": "conversations/x", "form": "messages", "files": [filler.file("x.jsonl")]}
    fields["licence"] = HOSTILE
    filler.put(ConversationsRecipe, fields, Conversations(form="messages", rows=1, languages={"tha": 1}))
    filler.data()
    filler.models()
    filler.gated(
        "tiny-llama/late", "checkpoint/tiny-llama-it@1", "checkpoint/tiny-llama-cpt@1", "hold", shift=0, reason=HOSTILE
    )
    checked = Checked(page(filler.store))
    assert checked.loads == []
    assert "script" not in checked.elements and "img" not in checked.elements
    assert checked.text.count("<script>alert(1)</script>") == 2


def test_a_ledger_that_does_not_add_up_is_said_to(filler: Any) -> None:
    filler.corpus(lost=1)
    checked = Checked(page(filler.store))
    assert "✕ does not balance" in checked.text and "✓ balances" in checked.text
    assert "Not complete." in checked.text and "Complete." not in checked.text


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


def test_forest_shows_the_figures() -> None:
    row = Interval(label="Thai", delta=0.1, lower=-0.2, upper=0.4, margin=0.3, verdict="pass", figures="f")
    text = forest("t", [row])
    assert "Thai" in text and "+0.100  [-0.200, +0.400]" in text and "✓ pass" in text


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


def test_durations() -> None:
    assert [duration(s) for s in (4.2, 131, 7300)] == ["4.2 s", "2 min 11 s", "2 h 1 min"]
