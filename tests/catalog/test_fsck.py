"""fsck names everything that is wrong, goes on after each, and says nothing about a catalog that is whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sea_lion.catalog.files import read_artifact, record_text
from sea_lion.catalog.footers import footers
from sea_lion.catalog.fsck import Finding, fsck
from sea_lion.catalog.places import Place
from sea_lion.catalog.slots import Manifest, SlotSet
from sea_lion.catalog.store import Store


@pytest.fixture
def copied(filled: Store, tmp_path: Path) -> Store:
    """The whole lineage, to be damaged."""
    shutil.copytree(filled.root, tmp_path / "artifacts")
    return Store(tmp_path / "artifacts")


def said(findings: list[Finding], severity: str = "error") -> dict[str, str]:
    return {finding.path: finding.problem for finding in findings if finding.severity == severity}


def test_a_whole_catalog_has_no_findings(filled: Store) -> None:
    assert fsck(filled, deep=True) == []


def test_damaged_records_and_files_are_each_named(copied: Store) -> None:
    root = copied.root
    flow, counts = root / "corpus/tiny/1/flow.parquet", root / "tokens/tiny/1/token_counts.parquet"
    data = bytearray(flow.read_bytes())
    data[len(data) // 2] ^= 1
    flow.write_bytes(bytes(data))
    counts.write_bytes(counts.read_bytes()[:-5])
    (root / "checkpoint/tiny-llama-cpt/1/training_log.parquet").unlink()
    record = root / "tokenizer/tiny/1/artifact.json"
    record.write_bytes(record.read_bytes().replace(b"byte-level", b"bite-level"))
    shutil.copytree(root / "mixture/tiny/1", root / "mixture/tiny/2")
    (root / "mixture/tiny-base/1/stray.txt").write_text("stray")
    shallow, deep = fsck(copied), fsck(copied, deep=True)
    errors = said(shallow)
    assert "has" in errors["tokens/tiny/1/token_counts.parquet"] and "wrote" in errors["tokens/tiny/1/token_counts.parquet"]
    assert errors["checkpoint/tiny-llama-cpt/1/training_log.parquet"] == "is missing"
    assert "sha256 differs" in errors["tokenizer/tiny/1/artifact.json"]
    assert "two artifacts cannot have one version" in errors["mixture/tiny/2/artifact.json"]
    assert "was made from tokenizer/tiny@1" in errors["tokens/tiny/1/artifact.json"]
    assert "corpus/tiny/1/flow.parquet" not in errors
    assert "sha256 differs" in said(deep)["corpus/tiny/1/flow.parquet"]
    assert said(shallow, "note") == {"mixture/tiny-base/1": "1 no file of the record: stray.txt"}


def test_references_that_lead_nowhere_or_elsewhere(copied: Store) -> None:
    shutil.rmtree(copied.root / "decision/tiny-llama/cpt")
    path = copied.root / "corpus/tiny/1/artifact.json"
    value = json.loads(record_text(read_artifact(path)))
    del value["sha256"]
    value["identity"]["languages"] = ["tha"]
    value["files"][0]["path"] = "../../../etc/passwd"
    path.write_text(json.dumps(value))
    errors = [(finding.path, finding.problem) for finding in fsck(copied) if finding.severity == "error"]
    problems = [problem for where, problem in errors if where == "promotion/tiny-llama/cpt/1/artifact.json"]
    assert any("is no gate decision" in problem for problem in problems)
    corpus = [problem for where, problem in errors if where == "corpus/tiny/1/artifact.json"]
    assert any("fingerprint is not that of its identity" in problem for problem in corpus)
    assert any("names a file outside its folder" in problem for problem in corpus)


def test_slots_that_are_missing_damaged_or_in_conflict(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    slots = SlotSet(place=Place.at(store.root), ref="corpus/a@1", stage="clean")
    slots = slots.plan([(f"s{i}", f"file {i}") for i in range(9)], "plan")
    for number in range(6):
        slots.report(Manifest(slot=f"s{number}"), b"shard %d" % number)
    slots.report(Manifest(slot="s0"), b"another")
    slots.report(Manifest(slot="unplanned"), b"x")
    home = store.root / slots.folder / slots.generation
    shards = {path.name[:2]: path for path in home.glob("shards/*")}
    shards["s1"].unlink()
    shards["s2"].write_bytes(b"short")
    shards["s3"].write_bytes(b"SHARD 3")
    (home / "s4.json").write_bytes((home / "s4.json").read_bytes().replace(b'"documents":0', b'"documents":1'))
    (home / ".s5.json.0123456789ab.partial").write_bytes(b"half")
    (store.root / ".work" / "0123").mkdir(parents=True)
    found = fsck(store, deep=True)
    errors, warnings, notes = (said(found, severity) for severity in ("error", "warning", "note"))
    at = {name: path.relative_to(store.root).as_posix() for name, path in shards.items()}
    assert errors[at["s1"]] == "is missing" and "its manifest says 7" in errors[at["s2"]]
    assert "sha256 differs" in errors[at["s3"]]
    folder = f"{slots.folder}/{slots.generation}"
    assert "digest differs" in errors[f"{folder}/s4.json"] and "unplanned.json" in errors[folder]
    problems = [finding.problem for finding in found if finding.severity == "warning"]
    assert any(problem.startswith("3 planned, of 9, not reported: s6 (file 6), s7") for problem in problems), warnings
    assert any("1 later attempts with other bytes" in problem for problem in problems)
    assert (
        "3 a shard that no manifest names" in notes[slots.folder]
    )  # of the conflict, of nobody's slot, of the altered manifest
    assert ".work/0123" in notes and "1 being written" in notes["."]
    assert [finding.severity for finding in found] == sorted(
        (f.severity for f in found), key=["error", "warning", "note"].index
    )


def test_a_footer_that_ends_its_reader_costs_itself(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "good.parquet")
    pq.write_table(
        pa.table({"a": pa.array([0] * 3_000_000)}), tmp_path / "bomb.parquet", compression="zstd", use_dictionary=False
    )
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing PAR1")
    good, bad, missing, bomb = footers(tmp_path, ["good.parquet", "bad.parquet", "missing.parquet", "bomb.parquet"])
    assert (good.rows, good.problem) == (2, "") and bad.problem and missing.problem
    assert bomb.decoded > 1000 * (tmp_path / "bomb.parquet").stat().st_size
