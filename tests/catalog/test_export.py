"""A corpus as a folder to publish: what it holds is what the catalog says, and the usual readers read it."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from sea_lion import cli
from sea_lion.catalog import index
from sea_lion.catalog.card_check import check_card
from sea_lion.catalog.card_tables import tables
from sea_lion.catalog.cards import without_places
from sea_lion.catalog.errors import CorruptInput, SeaLionError
from sea_lion.catalog.export import corpus_croissant, export
from sea_lion.catalog.fingerprint import file_digest
from sea_lion.catalog.inheritance import LicenceRefused
from sea_lion.catalog.store import Options, Store
from sea_lion.data.build import build_corpus
from sea_lion.data.plan import read_plan
from sea_lion.data.planning import write_corpus_plan
from sea_lion.data.recipe import CorpusRecipe, Source


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A catalog with the corpus of one file of the sample crawl."""
    store = Store(tmp_path_factory.mktemp("export") / "artifacts")
    crawl = Source(name="web", form="warc", files=("package:data/sample/crawl/*-00000.warc.gz",), crawl="CC-MAIN-2024-18")
    text = Source(name="text", form="jsonl", files=("package:data/sample/english.jsonl",), language="eng")
    recipe = CorpusRecipe(
        kind="corpus", name="corpus/one", version="1", languages=("tha", "zsm", "ind", "mya", "cmn"), source=(crawl, text),
        heldout_documents=2, description="One file of the sample crawl.", licence="Apache-2.0",
    )  # fmt: skip
    store.make(recipe, Path("/"), build_corpus, Options())
    return store


@pytest.fixture(scope="module")
def exported(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus as a folder."""
    return export(store, "corpus/one@1", tmp_path_factory.mktemp("hub") / "one", "parquet", write_corpus_plan)


def split_sizes(store: Store) -> dict[str, int]:
    return dict(index.query(store, "SELECT split, sum(documents)::INT FROM shards GROUP BY split")[1])


def test_load_dataset_reads_the_folder(store: Store, exported: Path) -> None:
    from datasets import load_dataset

    sizes = split_sizes(store)
    whole = load_dataset(str(exported), cache_dir=str(exported.parent / "cache"))
    assert {split: len(rows) for split, rows in whole.items()} == sizes
    streamed = load_dataset(str(exported), streaming=True)
    assert {split: sum(1 for _ in rows) for split, rows in streamed.items()} == sizes
    thai = load_dataset(str(exported), "tha", streaming=True)
    texts = {row["text"] for rows in thai.values() for row in rows}
    known = index.query(store, "SELECT sum(documents)::INT FROM shards WHERE language = 'tha'")[1][0][0]
    assert len(texts) == known and all(max(text) >= "ก" for text in texts)


def test_duckdb_and_datatrove_read_the_folder(store: Store, exported: Path) -> None:
    from datatrove.pipeline.readers import ParquetReader

    sizes = split_sizes(store)
    sql = f"SELECT language, count(*) FROM '{exported}/data/**/*.parquet' GROUP BY language"
    rows = duckdb.connect().execute(sql).fetchall()
    by_language = index.query(store, "SELECT language, sum(documents)::INT FROM shards GROUP BY language")[1]
    assert sorted(rows) == sorted(by_language)
    read = list(ParquetReader(str(exported / "data"), glob_pattern="**/train-*.parquet")())
    assert len(read) == sizes["train"] and all(document.text and document.metadata["language"] for document in read)


def test_the_cards_numbers_are_sql(store: Store, exported: Path) -> None:
    """The card agrees with the catalog, and the catalog with the files."""
    text = (exported / "README.md").read_text("utf-8")
    assert check_card(store, text, "corpus/one@1") == []
    header = yaml.safe_load(text.split("---")[1])
    assert header["license"] == "apache-2.0" and {"th", "ms", "en"} <= set(header["language"])
    found = {table.heading: table for table in tables(text)}
    assert {"Read and kept", "Documents by language", "What was removed", "Domains", "Completeness"} <= set(found)
    total = found["Documents by language"].rows[-1]
    documents = sum(pq.read_metadata(path).num_rows for path in exported.glob("data/*/*/*.parquet"))
    assert total[0] == "total" and int(total[3].replace(",", "")) == documents == sum(split_sizes(store).values())


def test_the_manifest_names_every_file_with_its_digest(exported: Path) -> None:
    with (exported / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    paths = {path.relative_to(exported).as_posix() for path in exported.glob("data/*/*/*.parquet")}
    assert {row["path"] for row in rows} == paths and len(rows) == len(paths)
    for row in rows:
        assert file_digest(exported / row["path"]) == row["sha256"]
        assert (exported / row["path"]).stat().st_size == int(row["bytes"])


def test_croissant_describes_the_folder(store: Store, exported: Path) -> None:
    text = (exported / "croissant.json").read_text("utf-8")
    value = json.loads(text)
    kinds = [part["@type"] for part in value["distribution"]]
    assert kinds == ["cr:FileObject", "cr:FileSet"]  # however many shards there are
    assert file_digest(exported / "manifest.csv") == value["distribution"][0]["sha256"]
    fields = [field["name"] for field in value["recordSet"][0]["field"]]
    assert fields == pq.read_schema(next(exported.glob("data/*/*/*.parquet"))).names
    counted = {row["languages/language"]: row["languages/documents"] for row in value["recordSet"][1]["data"]}
    assert counted == dict(index.query(store, "SELECT language, sum(documents)::INT FROM shards GROUP BY language")[1])
    assert value["license"] == "https://spdx.org/licenses/Apache-2.0.html"
    assert "CC-MAIN-2024-18" in value["rai:dataCollection"] and "quality" in value["rai:dataPreprocessingProtocol"]
    assert corpus_croissant(store, store.require("corpus/one@1")) == text  # without exporting


def test_mlcroissant_reads_it(store: Store, exported: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    data = mlcroissant.Dataset(exported / "croissant.json")
    assert not data.metadata.issues.errors and data.metadata.ctx.is_v1_1()
    assert sum(1 for _ in data.records("documents")) == sum(split_sizes(store).values())
    languages = {row["languages/language"] for row in data.records("languages")}
    assert {"tha", "zsm", "eng"} <= languages


def test_a_licence_above_the_parents_is_not_exported(store: Store, tmp_path: Path) -> None:
    with pytest.raises(LicenceRefused, match=r"corpus/one@1 is under Apache-2.0, which also asks for changes"):
        export(store, "corpus/one@1", tmp_path / "out", "parquet", licence="MIT")
    assert not list(tmp_path.iterdir())
    folder = export(store, "corpus/one@1", tmp_path / "out", "jsonl", licence="Apache-2.0 AND CC-BY-SA-4.0")
    assert "license_name: Apache-2.0 AND CC-BY-SA-4.0" in (folder / "README.md").read_text("utf-8")
    value = json.loads((folder / "croissant.json").read_text("utf-8"))
    assert value["license"] == "Apache-2.0 AND CC-BY-SA-4.0"


def test_json_lines_hold_the_same_rows(store: Store, exported: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    folder = export(store, "corpus/one@1", tmp_path / "lines", "jsonl")
    assert not (folder / "plan.parquet").exists()
    lines = load_dataset(str(folder), "zsm", split="train", streaming=True)
    table = [row for path in exported.glob("data/language=zsm/*/train-*") for row in pq.read_table(path).to_pylist()]
    assert [(row["id"], row["text"], row["offset"]) for row in lines] == [(r["id"], r["text"], r["offset"]) for r in table]


def test_what_exists_is_not_written_over(store: Store, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(SeaLionError, match="exists already"):
        export(store, "corpus/one@1", exported, "parquet")
    (tmp_path / "file").write_text("x")
    with pytest.raises(SeaLionError, match="exists already"):
        export(store, "corpus/one@1", tmp_path / "file", "parquet")


def test_a_changed_shard_is_not_published(store: Store, tmp_path: Path) -> None:
    import shutil

    copy = Store(tmp_path / "artifacts")
    shutil.copytree(store.root, copy.root)
    shard = next((copy.root / "corpus" / "one" / "1" / "shards").glob("*/*/*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"X")
    with pytest.raises(CorruptInput, match="is not what corpus/one@1 wrote"):
        export(copy, "corpus/one@1", tmp_path / "out", "parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["artifacts"]


def test_the_command(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[Any]) -> None:
    target = str(tmp_path / "x")
    assert cli.main(["catalog", "export", "corpus/one@1", "--output", target, "--catalog", str(store.root)]) == 0
    assert (tmp_path / "x" / "plan.parquet").is_file() and capsys.readouterr().out.strip() == target
    assert cli.main(["catalog", "export", "corpus/two@1", "--output", target, "--catalog", str(store.root)]) == 2
    assert "corpus/one@1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("thresholds", ["package:data/thresholds/web.toml", "mine.toml"], "mine.toml"),
        ("url_lists", ["/secret/domains.txt"], "/secret/domains.txt"),
        ("language_model", ["glotlid.bin"], "glotlid.bin"),
        ("evaluation_ngrams", "ngrams/suites@1", "ngrams/suites@1"),
    ],
)
def test_no_plan_for_what_a_stranger_cannot_rebuild(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str, value: Any, said: str
) -> None:
    artifact = store.require("corpus/one@1")
    changed = replace(artifact, recipe=artifact.recipe | {key: value})
    with caplog.at_level(logging.WARNING):
        assert not write_corpus_plan(changed, store.folder(artifact.ref), tmp_path / "plan.parquet")
    assert f"corpus/one@1: {key}: a plan cannot carry" in caplog.text and said in caplog.text
    assert not list(tmp_path.iterdir())


def test_no_plan_when_records_overlap(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two folders may hold files of one name: their records cannot be told apart, the corpus is published all the same."""
    artifact = store.require("corpus/one@1")
    removals = pq.read_table(store.folder(artifact.ref) / "removals.parquet")
    crawled = [row for row in removals.to_pylist() if row["length"]]
    other = [row | {"offset": row["offset"] + 1} for row in crawled]
    pq.write_table(pa.Table.from_pylist([*crawled, *other], schema=removals.schema), tmp_path / "removals.parquet")
    assert not write_corpus_plan(artifact, tmp_path, tmp_path / "plan.parquet")
    assert "no plan is written" in caplog.text and "in the record before it" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["removals.parquet"]


def test_a_plan_of_a_catalog_whose_path_looks_like_a_pattern(store: Store, exported: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "cat[1]"
    shutil.copytree(store.folder(store.require("corpus/one@1").ref), folder)
    assert write_corpus_plan(store.require("corpus/one@1"), folder, tmp_path / "plan.parquet")
    assert (tmp_path / "plan.parquet").read_bytes() == (exported / "plan.parquet").read_bytes()


def test_where_files_lie_is_not_published(exported: Path) -> None:
    recipe = {"source": [{"files": ["/home/somebody/crawl/*.warc.gz"]}], "url_lists": ("/home/somebody/lists/adult.txt",)}
    assert without_places(recipe) == {"source": [{"files": ["*.warc.gz"]}], "url_lists": ["adult.txt"]}
    card = (exported / "README.md").read_text("utf-8")
    assert '"package:data/thresholds/web.toml"' in card and '"/' not in card
    assert read_plan(exported / "plan.parquet").recipe["source"] == [{"name": "web", "form": "plan"}]


def test_names_and_folders_in_every_form(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with slashes; a target that ends in a slash, is empty, or is where one stands."""
    text = Source(name="text", form="jsonl", files=("package:data/sample/english.jsonl",), language="eng")
    recipe = CorpusRecipe(kind="corpus", name="corpus/a/b", version="1", languages=("eng",), source=(text,))
    own = Store(tmp_path / "artifacts")
    own.make(recipe, Path("/"), build_corpus, Options())
    (tmp_path / "empty").mkdir()
    (tmp_path / "here").mkdir()
    for target in ("new/folder/", "empty/"):
        command = ["catalog", "export", "corpus/a/b@1", "--output", f"{tmp_path}/{target}", "--catalog", str(own.root)]
        assert cli.main(command) == 0
        assert json.loads((tmp_path / target / "croissant.json").read_text("utf-8"))["name"] == "a-b"
        assert not (tmp_path / target / "plan.parquet").exists()
    monkeypatch.chdir(tmp_path / "here")
    export(own, "corpus/a/b@1", Path(), "parquet", write_corpus_plan)
    assert (tmp_path / "here" / "README.md").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", "empty", "here", "new"]
