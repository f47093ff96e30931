"""What merges did to the weights: from the Parquet tables through the views to the page."""

from __future__ import annotations

import math
import re
from html import unescape
from typing import Any

import duckdb
import pytest

from sea_lion.catalog import index, schema
from sea_lion.catalog.index import DuckTarget
from sea_lion.catalog.pages.bands import Band, Series
from sea_lion.catalog.records import Checkpoint, TokenizerBody
from sea_lion.catalog.report import site
from sea_lion.catalog.store import Store
from sea_lion.merging.recipe import MergeRecipe
from sea_lion.merging.search_recipe import MergeSearchRecipe
from sea_lion.training.recipe import InitRecipe, TokenizerRecipe

from .conftest import Filler
from .page_reader import checked

BASE, ONE, TWO, THREE = (f"checkpoint/{name}@1" for name in ("base", "one", "two", "three"))


def tables_of(placed: list[tuple[str, int | None, str, int]], parents: int = 2) -> dict[str, list[dict[str, Any]]]:
    """Rows of tensors (name, layer, part, elements), every figure different from tensor to tensor."""
    tables: dict[str, list[dict[str, Any]]] = {"merge_tensors": [], "merge_parents": [], "merge_pairs": []}
    for number, (tensor, layer, part, elements) in enumerate(placed, 1):
        place = {"tensor": tensor, "layer": layer, "part": part}
        own = {"elements": elements, "dtype": "BF16", "file": "model.safetensors", "xxh3_128": f"{number:032x}"}
        tables["merge_tensors"].append(
            place | own | {"base_norm": 10.0 * number, "merged_norm": 0.5 * number, "sign_conflict": 0.1 * number}
        )
        tables["merge_parents"] += [
            place
            | {
                "parent": i,
                "model": f"p{i}",
                "weight": 1.0,
                "norm": float(number * i),
                "changed": 0.5,
                "kept": 0.9 / number / i,
            }
            for i in range(1, parents + 1)
        ]
        tables["merge_pairs"] += [
            place | {"one": i, "other": j, "cosine": 0.1 * number - 0.3 * (j - 2), "overlap": 0.2 * number}
            for j in range(2, parents + 1)
            for i in range(1, j)
        ]
    return tables


SMALL = [
    ("model.embed_tokens.weight", None, "embed_tokens", 1000), ("model.layers.0.self_attn.q_proj.weight", 0, "q_proj", 300),
    ("model.layers.0.input_layernorm.weight", 0, "input_layernorm", 10), ("model.norm.weight", None, "norm", 10),
]  # fmt: skip


def put(filler: Filler, name: str, tables: dict[str, list[dict[str, Any]]] | None, parents: int = 2, **fields: Any) -> str:
    """A merge of given figures onto `BASE`."""
    models = [ONE, TWO, THREE, f"{BASE}"][:parents]
    recipe = {"kind": "merge", "name": f"checkpoint/{name}", "method": "dare_ties", "base": BASE}
    body = Checkpoint(stage="merge", architecture="LlamaForCausalLM", parameters=9, parents=(BASE, *models), method="dare_ties")
    return str(filler.put(MergeRecipe, recipe | {"parents": [{"model": model} for model in models]} | fields, body, tables))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of merges of every sort, the first one of few tensors; for reading only."""
    filler = Filler(tmp_path_factory.mktemp("merges"))
    filler.corpus()
    fields: dict[str, Any] = {"kind": "tokenizer", "name": "tokenizer/tiny", "corpora": ["corpus/tiny@1"], "vocabulary": 300}
    filler.put(TokenizerRecipe, fields, TokenizerBody(algorithm="byte-level-bpe", vocabulary=300))
    sizes = ("hidden_size", "intermediate_size", "layers", "heads", "key_value_heads", "head_dim", "max_length")
    for ref in (BASE, ONE, TWO, THREE):
        fields = {"kind": "init", "name": ref.partition("@")[0], "tokenizer": "tokenizer/tiny@1", "architecture": "llama"}
        body = Checkpoint(stage="init", architecture="LlamaForCausalLM", parameters=9)
        filler.put(InitRecipe, fields | dict.fromkeys(sizes, 8), body)
    first = put(filler, "small", tables_of(SMALL))
    put(filler, "child", tables_of(SMALL), base=first)
    deep = [*SMALL, *((f"model.layers.{i}.mlp.up_proj.weight", i, "up_proj", 50) for i in range(1, 30))]
    assumed = {"normalize": "the paper is silent <b>", "parents.1.weight": "as all others"}
    put(filler, "deep", tables_of(deep), assumed=assumed)
    for parents in (1, 3, 4):
        put(filler, f"of-{parents}", tables_of(SMALL, parents), parents)
    still = tables_of(SMALL)
    unmeasured = [row | {"base_norm": None, "merged_norm": None, "sign_conflict": None} for row in still["merge_tensors"]]
    put(filler, "old", None)
    put(filler, "by-mergekit", {"merge_tensors": unmeasured}, engine="mergekit")
    for table, nothing in (
        ("merge_parents", {"norm": 0.0, "changed": 0.0, "kept": None}), ("merge_pairs", {"cosine": None, "overlap": None}),
        ("merge_tensors", {"merged_norm": 0.0, "sign_conflict": 0.0}),
    ):  # fmt: skip
        for row in still[table]:
            row.update(nothing)
    put(filler, "still", still)
    put_search(filler, 20)
    return filler.store


def put_search(filler: Filler, trials: int) -> None:
    """A search of so many trials, the last one the best, the first one failed."""
    for number in range(1, trials):
        put(filler, f"searched-trials/{number}", None)
    runs: list[dict[str, Any]] = [
        {"trial": i, "run": f"checkpoint/searched-trials/{i}@1" if i else "", "method": "ties"} for i in range(trials)
    ]
    tables = tables_of(SMALL) | {
        "merge_trials": [
            row
            | {
                "value": row["trial"] / 8 or None,
                "is_best": row["trial"] == trials - 1,
                "failed": "" if row["trial"] else "NaN",
            }
            for row in runs
        ],
        "merge_trial_parameters": [
            {"trial": row["trial"], "run": row["run"], "parameter": name, "value": row["trial"] / trials}
            for row in runs
            for name in ("weight.1", "weight.0")
        ],
    }
    fields = {"kind": "merge-search", "name": "checkpoint/searched", "base": BASE, "parents": [ONE, TWO], "methods": ["ties"]}
    body = Checkpoint(stage="merge", architecture="LlamaForCausalLM", parameters=9, parents=(BASE, ONE, TWO), method="ties")
    filler.put(MergeSearchRecipe, fields | {"trials": trials, "suite": "smoke"}, body, tables)


@pytest.fixture(scope="module")
def sections(store: Store) -> dict[str, str]:
    """Name of each merge to its section of the page."""
    made = site(store)
    checked(made)
    parts = made["merges.html"].split('<section id="checkpoint-')[1:]
    return {part.partition('"')[0].removesuffix("-1"): part for part in parts}


def words(section: str) -> str:
    return " ".join(unescape(re.sub("<[^>]*>", " ", section)).split())


def test_tables_come_back_from_the_index_as_they_were_written(store: Store) -> None:
    for table, rows in tables_of(SMALL).items():
        columns, found = index.query(store, f"SELECT * FROM {table} WHERE ref = 'checkpoint/small@1'")
        written = [{"ref": "checkpoint/small@1"} | row for row in rows]
        assert sorted(map(str, (dict(zip(columns, row, strict=True)) for row in found))) == sorted(map(str, written)), table


def test_views_add_up_squares_and_elements(store: Store) -> None:
    def rows(view: str, columns: str, scope: str) -> dict[Any, Any]:
        sql = f"SELECT place, {columns} FROM {view} WHERE ref = 'checkpoint/small@1' AND scope = $1 ORDER BY position, place"
        return {row[0]: row[1:] for row in index.query(store, sql, [scope])[1]}

    layers = rows("merge_changes", "tensors, elements, base_norm, sign_conflict", "layer")
    assert list(layers) == ["embeddings", "0", "head"]
    assert layers["0"] == pytest.approx((2, 310, 10 * math.hypot(2, 3), (300 * 0.2 + 10 * 0.3) / 310))
    parts = rows("merge_changes", "tensors, elements, merged_norm", "part")
    assert parts["norms"] == pytest.approx((2, 20, 0.5 * math.hypot(3, 4)))
    assert set(parts) == {"embed_tokens", "q_proj", "norms"}
    assert rows("merge_changes", "tensors, elements", "model") == {"": (4, 1320)}
    moved = rows("merge_parent_changes", "parent, relative, kept, norm", "layer")["0"]
    own = {
        1: (0.1, (300 * 0.45 + 10 * 0.3) / 310, math.hypot(2, 3)),
        2: (0.2, (300 * 0.225 + 10 * 0.15) / 310, math.hypot(4, 6)),
    }
    assert moved[1:] == pytest.approx(own[moved[0]])
    pair = rows("merge_pair_changes", "cosine, overlap", "layer")["0"]
    # both tensors of layer 0: differences of norms 2 and 4, 3 and 6; kept of the two 0.45 + 0.225 of 300, 0.3 + 0.15 of 10
    assert pair[0] == pytest.approx((0.2 * 2 * 4 + 0.3 * 3 * 6) / math.sqrt((4 + 9) * (16 + 36)))
    each, both = [300 * 0.675, 10 * 0.45], [300 * 0.675 * 0.4 / 1.4, 10 * 0.45 * 0.6 / 1.6]
    assert pair[1] == pytest.approx(sum(both) / (sum(each) - sum(both)))


def test_the_overlap_of_a_layer_is_that_of_its_elements() -> None:
    """Masks drawn and counted over a whole layer say what the view makes of their shares."""
    import numpy as np

    rng = np.random.default_rng(1)
    connection = duckdb.connect()
    DuckTarget(connection).migrate()
    both = either = 0
    for name, elements in (("a", 4000), ("b", 700)):
        masks = rng.random((2, elements)) < [[0.8], [0.3 if name == "a" else 0.9]]
        inner, outer = int((masks[0] & masks[1]).sum()), int((masks[0] | masks[1]).sum())
        both, either = both + inner, either + outer
        connection.execute(
            "INSERT INTO merge_tensors (ref, tensor, layer, part, elements) VALUES ('m', $1, 0, $1, $2)", [name, elements]
        )
        connection.execute(
            "INSERT INTO merge_pairs (ref, tensor, one, other, cosine, overlap) VALUES ('m', $1, 1, 2, 0, $2)",
            [name, inner / outer],
        )
        for i in (0, 1):
            connection.execute(
                "INSERT INTO merge_parents (ref, tensor, parent, norm, kept) VALUES ('m', $1, $2, 1, $3)",
                [name, i + 1, masks[i].mean()],
            )
    (row,) = connection.execute("SELECT overlap FROM merge_pair_changes WHERE scope = 'layer'").fetchall()
    assert row[0] == pytest.approx(both / either, rel=1e-12)


def test_the_page_shows_layers_parts_and_words(sections: dict[str, str]) -> None:
    text = sections["deep"]
    for heading in ("Distance from the base", "Sign conflicts", "Same direction", "Let through", "Mask overlap", "By part"):
        assert heading in words(text)
    assert "The parents lie 10.0% and 20.0% of the base’s norm away from it, the merged model 5.0%." in words(text)
    assert "Layer 0: parent 1 10.0%, parent 2 20.0%, merged 5.0%" in text, "what one reads where one points"
    assert re.search(r"Distance from the base: parent 1 from 10.0% \(.*?\) to 10.0% \(.*?\); parent 2 from 20.0%", text)
    assert text.count('class="fgone"') == 32, "a bar for the embeddings, each layer and the head"
    assert re.search(r'<th scope="row">norms</th><td class="n">10.0%</td>', text)
    assert "up_proj" in words(text) and "The same by layer" in words(text)


def test_the_page_marks_what_is_assumed_and_why(sections: dict[str, str]) -> None:
    text = sections["deep"]
    assert text.count('class="assumed"') == 2 and sum("assumed" in section for section in sections.values()) == 1
    assert "normalize : the paper is silent <b>" in words(text) and "parents.1.weight : as all others" in words(text)
    assert "<b>" not in text.split("silent ")[1][:9], "a reason is text"
    settings = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text.split('class="parameters"')[1]))
    assert settings["rescale"] == "true" and settings["engine"] == "streaming" and settings["seed"] == "0"
    assert settings["normalize"].startswith("false ") and settings["scale"] == "1"


def test_parents_lead_to_their_merge_or_to_the_lineage(sections: dict[str, str]) -> None:
    assert '<a href="#checkpoint-small-1"><span class="ref">checkpoint/small@1</span></a>' in sections["child"]
    assert f'<a href="lineage.html"><span class="ref">{ONE}</span></a>' in sections["child"]


@pytest.mark.parametrize(("name", "parents"), [("of-1", 1), ("small", 2), ("of-3", 3), ("of-4", 4)])
def test_any_number_of_parents_can_be_drawn(sections: dict[str, str], name: str, parents: int) -> None:
    text, read = sections[name], words(sections[name])
    assert ("Same direction" in read) == (parents > 1) and ("Sign conflicts" in read) == (parents > 1)
    assert f"from {parents} parent" in read and "from 1 parents" not in read
    assert ('class="among"' in text) == (parents == 4), "six pairs are a surface with their mean"
    assert not re.search(r'"[^"]*\b(nan|inf)\b', text)


def test_merges_without_figures_say_why(sections: dict[str, str]) -> None:
    assert "not on record: nothing measured that when it was made" in words(sections["old"])
    assert "not on record: mergekit merged it, which does not measure that" in words(sections["by-mergekit"])
    for name in ("old", "by-mergekit"):
        assert "What did it do?" not in sections[name] and 'class="tier"' not in sections[name]


def test_a_merge_that_changed_nothing_is_drawn(sections: dict[str, str]) -> None:
    text = words(sections["still"])
    assert "The parents lie 0% and 0% of the base’s norm away from it, the merged model 0%." in text
    assert "Same direction" not in text and "Let through" not in text


def test_the_trials_of_a_search_are_a_table_of_its_result(sections: dict[str, str]) -> None:
    """They crowd out no other merge, and the best of them come first, with what was searched."""
    assert len(sections) == 10 and not any("trials" in name for name in sections)
    read = words(sections["searched"])
    assert "The best of 20 trials" in read and "What did it do?" in read
    assert "trial 19 ties weight.0 0.95, weight.1 0.95 2.375 trial 18 ties weight.0 0.9," in read
    assert "trial 8 ties" in read and "trial 7 ties" not in read
    assert "trials" not in words(sections["still"])


def test_an_index_of_before_merges_had_figures_reads_them_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    count = "SELECT count(*) FROM merge_tensors WHERE ref = 'checkpoint/small@1'"
    everything = schema.migrations()
    (store.root / index.INDEX).unlink(missing_ok=True)
    for module in (index, schema):
        monkeypatch.setattr(module, "migrations", lambda: {n: sql for n, sql in everything.items() if n < 7})
    monkeypatch.setattr(index, "views", dict)
    schema.tables.cache_clear()
    index.refresh(store)
    with duckdb.connect(str(store.root / index.INDEX)) as connection, pytest.raises(duckdb.CatalogException):
        connection.execute(count)
    monkeypatch.undo()
    schema.tables.cache_clear()
    assert index.query(store, count)[1] == [(4,)]


def test_lines_and_marks_lie_in_their_band() -> None:
    places = ("embeddings", *map(str, range(4)), "head")
    line = Series(name="x", look="sk1", values=[0.5, 0.1, None, 0.3, 0.4, -0.2], mark=0)
    drawn = Band(heading="h", note="n", series=[line], total="", height=60).drawn(places)
    (points,) = re.findall(r'points="(.*?)"', drawn)
    assert len(points.split()) == 3, "only layers that have a figure are joined, embeddings and head stand alone"
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert heights[0] > heights[1] > heights[2] and all(7 <= y <= 53 for y in heights)
    assert drawn.count('class="small-mark"') == 5
    assert "x from -20.0% (Last norm, head) to 50.0% (Embeddings)" in drawn


def test_the_store_of_all_pages_has_merges_with_and_without_figures(filled: Store) -> None:
    text = site(filled)["merges.html"]
    assert text.count("What did it do?") == 2 and text.count("is not on record") == 1
