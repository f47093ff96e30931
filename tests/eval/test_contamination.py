"""From a suite's questions over a corpus that holds some of them to a gate that leaves them out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sea_lion.catalog.errors import CorruptInput, RecipeError
from sea_lion.catalog.recipes import Recipe
from sea_lion.catalog.records import Artifact, Contamination, Corpus, Overlaps, Questions, Shard
from sea_lion.catalog.store import Job, Made, Options, Store
from sea_lion.data.decontaminate import index_suites
from sea_lion.data.overlap import find_overlaps
from sea_lion.data.recipe import NgramsRecipe, OverlapRecipe, SuiteItems
from sea_lion.eval.contamination import Clean, contaminated_items, write_contamination
from sea_lion.eval.gate import compare
from sea_lion.eval.policy import read_policy
from sea_lion.eval.questions import QuestionsRecipe, write_questions

from .scorecards import POLICIES, changed, items, suite_rows

PASSAGE = "Raka menabung untuk membeli sepeda seharga sembilan ratus ribu rupiah dan pamannya menambah sisanya dengan syarat"
LINES = (
    f'{{"passage": "{PASSAGE} mencuci mobil.", "questions": [{{"text": "Untuk apa Raka menabung?", "choices": '
    '["Sepeda", "Mobil", "Rumah", "Radio"]}, {"text": "Siapa yang menambah?", "choices": ["Paman", "Bibi", "Ayah", "Ibu"]}]}',
    '{"passage": "Di pasar pagi itu ibu membeli lima ekor ikan kembung lalu memasaknya dengan santan kental bersama nenek di '
    'dapur.", "questions": [{"text": "Apa yang dibeli ibu?", "choices": ["Ikan", "Ayam", "Beras", "Gula"]}]}',
)
SUITE = """
name = "mine"
languages = ["ind"]
window_tokens = 64

[[task]]
name = "reading"
form = "choices"
items = "reading"
seed = "1"
norm = "byte"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing(Recipe):
    """A recipe for a corpus that a test needs."""

    seed: int = 0


class World:
    """A suite of three questions, its index, and a corpus with one of the two passages."""

    def __init__(self, root: Path, documents: list[str]) -> None:
        self.root, self.store = root, Store(root / "store")
        (root / "reading").mkdir()
        (root / "mine.toml").write_text(SUITE)
        (root / "reading" / "ind.jsonl").write_text("\n".join(LINES) + "\n")
        self.corpus(documents)
        asked = QuestionsRecipe(
            kind="questions", name="questions/mine", version="1", suite="mine", suite_files=("mine.toml", "reading/*.jsonl")
        )
        self.questions = self.store.make(asked, root, write_questions, Options())
        suite = (SuiteItems(name="mine", questions="questions/mine@1"),)
        index = NgramsRecipe(kind="ngrams", name="ngrams/mine", version="1", suite=suite)
        self.store.make(index, root, index_suites, Options())

    def corpus(self, documents: list[str]) -> None:
        def maker(job: Job[Any]) -> Made:
            rows = pa.table({"id": [f"d{i}" for i in range(len(documents))], "text": documents})
            pq.write_table(rows, job.folder / "a.parquet")
            shard = Shard(
                path="a.parquet", language="ind", source="web", split="train", documents=len(documents), characters=1, bytes=1,
                sha256="0" * 64,
            )  # fmt: skip
            return Made(body=Corpus(shards=(shard,), documents_in=1, documents_out=1))

        self.store.make(Thing(kind="thing", name="corpus/web", version="1"), self.root, maker, Options())

    def overlap(self) -> Artifact:
        recipe = OverlapRecipe(
            kind="overlap", name="overlap/mine", version="1", ngrams="ngrams/mine@1", corpora=("corpus/web@1",)
        )
        return self.store.make(recipe, self.root, find_overlaps, Options())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, ["Berita hari ini tentang cuaca.", f"Cerita: {PASSAGE} mencuci mobil setiap minggu.", "Lain."])


def test_items_of_a_passage_in_the_corpus_are_found_with_their_document(world: World) -> None:
    assert isinstance(world.questions.body, Questions) and world.questions.body.items == 3
    made = world.overlap()
    assert made.body == Overlaps(corpora=("corpus/web@1",), documents=3, items=2)
    rows = pq.read_table(world.store.path(made.ref) / "overlaps.parquet").to_pylist()
    assert {row["document"] for row in rows} == {"d1"} and {row["item"].split("/")[1] for row in rows} == {"reading"}
    assert all(row["matched"] <= row["ngrams"] and row["language"] == "ind" for row in rows)


def test_a_corpus_without_any_item_is_said_to_have_none(tmp_path: Path) -> None:
    made = World(tmp_path, ["Sebuah cerita yang lain sama sekali."]).overlap()
    assert made.body == Overlaps(corpora=("corpus/web@1",), documents=1, items=0)


def test_a_scorecard_tells_its_score_with_and_without_what_was_found(world: World) -> None:
    made = world.overlap()
    names = sorted(
        {row["item"].split("/", 3)[3] for row in pq.read_table(world.store.path(made.ref) / "overlaps.parquet").to_pylist()}
    )
    folder = world.root / "card"
    folder.mkdir()
    job = SimpleNamespace(
        recipe=SimpleNamespace(overlap="overlap/mine@1", ref="scorecard/x@1", suite="mine"), inputs={"overlap/mine@1": made},
        store=world.store,
        folder_of=lambda ref: world.store.path(made.ref), folder=folder,
    )  # fmt: skip
    rows = [
        {"task": "reading", "language": "ind", "metric": "acc", "item": name, "value": value, "stratum": ""}
        for name, value in [(names[0], 1.0), (names[1], 1.0), ("other", 0.0)]
    ]
    corpora, shares = write_contamination(job, pa.Table.from_pylist(rows))  # type: ignore[arg-type]
    assert corpora == ("corpus/web@1",)
    assert shares == (
        Contamination(task="reading", language="ind", metric="acc", items=3, found=2, value=2 / 3, clean_value=0.0),
    )
    unsought = [row | {"language": language} for row in rows for language in ("ind", "tha")]
    with pytest.raises(RecipeError, match="overlap/mine@1 looked for no items in tha"):
        write_contamination(job, pa.Table.from_pylist(unsought))  # type: ignore[arg-type]
    job.recipe.suite = "sea_helm_2025"
    with pytest.raises(RecipeError, match="overlap/mine@1 looked for items of mine, not of sea_helm_2025"):
        write_contamination(job, pa.Table.from_pylist(rows))  # type: ignore[arg-type]
    card = SimpleNamespace(tables={"contaminated": "contaminated.parquet"}, files=(), ref="scorecard/x@1")
    assert contaminated_items(card, folder) == {("reading", "ind", name) for name in names}  # type: ignore[arg-type]


def test_an_overlap_with_the_wrong_inputs_is_one_line(world: World) -> None:
    wrong = OverlapRecipe(kind="overlap", name="overlap/x", version="1", ngrams="corpus/web@1", corpora=("corpus/web@1",))
    with pytest.raises(RecipeError, match="is a corpus, not an n-gram index"):
        world.store.make(wrong, world.root, find_overlaps, Options())
    (world.store.root / "corpus/web/1/a.parquet").write_bytes(b"x")
    with pytest.raises(CorruptInput, match="sha256 differs"):
        world.overlap()


def test_a_gate_that_asks_for_clean_items_leaves_the_found_ones_out() -> None:
    policy = replace(read_policy(POLICIES / "merge.toml"), clean=Clean(max_share=0.5))
    rows = suite_rows(1)
    old = items("checkpoint/old@1", rows)
    # Half of Thai was learnt by heart by the baseline alone: without those items the two are the same.
    held = {(row["task"], "tha", row["item"]) for row in rows if row["language"] == "tha" and int(row["item"][-3:]) % 2}
    worse = [
        row | {"value": 0.0} if (row["task"], row["language"], row["item"]) in held and row["metric"] == "acc" else row
        for row in rows
    ]
    new = items("checkpoint/new@1", worse)
    assert compare(replace(policy, clean=None), new, [old], "").verdict == "hold"
    unknown = compare(policy, new, [old], "")
    assert unknown.verdict == "error" and "was made without an overlap" in unknown.reason

    def looked(card: Any, found: int, share: float = 0.4) -> Any:
        shares = (
            Contamination(
                task="word-order", language="tha", metric="acc", items=100, found=int(100 * share), value=0, clean_value=0
            ),
        )
        known = replace(card.card, corpora=("corpus/web@1",), contamination=shares)
        return replace(card, card=known, contaminated=frozenset(sorted(held)[:found]))

    clean = compare(policy, looked(new, 0), [looked(old, len(held))], "")
    assert clean.verdict == "pass" and any(
        f"{len(held)} items that training corpora hold are left out" in n for n in clean.notes
    )
    assert {o.items for o in clean.outcomes if o.node == "acc/tha"} == {22}
    much = compare(policy, looked(new, 0, share=0.6), [looked(old, 1)], "")
    assert much.verdict == "error" and "training corpora hold 60 of 100 items of word-order/tha" in much.reason
    kept = compare(replace(policy, clean=Clean(exclude=False)), looked(new, 0), [looked(old, len(held))], "")
    assert kept.verdict == "hold"


def test_leaving_items_out_changes_nothing_where_none_is_found() -> None:
    policy = read_policy(POLICIES / "merge.toml")
    rows = suite_rows(2)
    pair = [items("checkpoint/new@1", changed(rows, 3)), items("checkpoint/old@1", rows)]
    plain = compare(policy, pair[0], pair[1:], "")
    known = [replace(card, card=replace(card.card, corpora=("corpus/web@1",))) for card in pair]
    assert compare(replace(policy, clean=Clean()), known[0], known[1:], "").outcomes == plain.outcomes
