"""Who stays of duplicates, and that neither order, files, threads nor memory change it."""

from __future__ import annotations

import errno
import random
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashDedupBuckets, MinhashDedupCluster
from hypothesis import given, settings
from hypothesis import strategies as st

from sea_lion.catalog.errors import CorruptInput
from sea_lion.data import dedup
from sea_lion.data.dedup import PLACE, VERDICTS, resolve, write_signatures
from sea_lion.data.minhash import MinHash, shingles, text_digest
from sea_lion.data.recipe import Deduplication

from .alike_texts import Reference, long_text

BOTH = Deduplication()
ORDER = (*PLACE, "spool_file", "spool_row")
Doc = tuple[str, str]
"""Id and text."""


def edited(text: str, share: float = 0.03) -> str:
    """The text with its end replaced by other letters of its own."""
    kept = int(len(text) * (1 - share))
    return text[:kept] + text[: len(text) - kept][::-1]


def signed(folder: Path, name: str, language: str, documents: Sequence[Doc], given: Deduplication = BOTH) -> Path:
    spool, out = folder / f"{name}.spool.parquet", folder / f"{name}.signatures.parquet"
    ids, texts = ([document[i] for document in documents] for i in range(2))
    rows = {"text": texts, "offset": [7] * len(ids), "file": ["x.warc.gz"] * len(ids), "source": ["web"] * len(ids), "id": ids}
    types = [(column, pa.int64() if column == "offset" else pa.string()) for column in rows]
    pq.write_table(pa.table(rows, schema=pa.schema(types)), spool, row_group_size=3)
    assert write_signatures(spool, out, language, given) == len(documents)
    return out


def resolved(paths: Sequence[Path], given: Deduplication = BOTH, **options: Any) -> list[dict[str, Any]]:
    out = paths[0].parent / "verdicts.parquet"
    counts = resolve(paths, out, given, temp=paths[0].parent / "temp", **options)
    rows: list[dict[str, Any]] = pq.read_table(out).sort_by([(name, "ascending") for name in ORDER]).to_pylist()
    assert counts == {name: sum(row["verdict"] == name for row in rows) for name in counts}
    assert not list((paths[0].parent / "temp").iterdir())
    return rows


def by_id(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[str, str, int]]:
    return {row["id"]: (row["verdict"], row["cluster"], row["cluster_size"]) for row in rows}


def test_the_clusters_are_those_of_datatrove(tmp_path: Path) -> None:
    base = [long_text("tha", i, 2) for i in range(0, 20, 2)]
    texts = [edited(text, share) for text in base for share in (0.0, 0.02, 0.05, 0.1, 0.3)]
    stage = Reference(tmp_path / "sig", "tha")
    stage.run([Document(text=text, id=str(i)) for i, text in enumerate(texts)])
    for bucket in range(14):
        MinhashDedupBuckets(str(tmp_path / "sig"), str(tmp_path / "pairs"), config=stage.config).run(None, bucket, 14)
    cluster = MinhashDedupCluster(str(tmp_path / "pairs"), str(tmp_path / "out"), config=stage.config, save_cluster_id=True)
    cluster.run(None, 0, 1)
    pairs = np.fromfile(tmp_path / "out" / "000000.clusters", np.uint32).reshape(-1, 2)
    theirs = {frozenset(pairs[pairs[:, 1] == number, 0].tolist()) for number in set(pairs[:, 1])}
    rows = resolved([signed(tmp_path, "a", "tha", [(f"{i:03}", text) for i, text in enumerate(texts)])])
    ours: dict[str, set[int]] = {}
    for row in rows:
        ours.setdefault(row["cluster"], set()).add(int(row["id"]))
    assert {frozenset(members) for members in ours.values() if len(members) > 1} == theirs
    assert len(theirs) >= 5 and 20 <= len(pairs) < len(texts)


@pytest.mark.parametrize("language", ["tha", "khm", "tam", "ind", "cmn", "mya"])
def test_exact_and_near_duplicates_leave_the_smallest_id(language: str, tmp_path: Path) -> None:
    text, alone = long_text(language), long_text(language, 8)
    documents = [
        ("c", text),
        ("a", edited(text)),
        ("d", text.replace(" ", "  ") + "!!"),
        ("b", alone),
        ("e", edited(text, 0.5)),
    ]
    rows = resolved([signed(tmp_path, language, language, documents)])
    assert by_id(rows) == {
        "a": ("keep", "a", 3), "b": ("keep", "b", 1), "c": ("near_duplicate", "a", 3), "d": ("exact_duplicate", "a", 3),
        "e": ("keep", "e", 1),
    }  # fmt: skip
    assert {row["id"]: row["text_digest"] for row in rows} == {name: text_digest(text) for name, text in documents}


def test_a_page_called_indonesian_once_and_malay_once_is_found(tmp_path: Path) -> None:
    text, other = long_text("zsm"), long_text("eng")
    paths = [signed(tmp_path, code, code, [(code, text), (f"{code} too", edited(text))]) for code in ("ind", "zsm")]
    paths += [signed(tmp_path, code, code, [(f"{code} eng", other)]) for code in ("fil", "eng")]
    rows = resolved(paths)
    assert by_id(rows)["zsm"] == ("exact_duplicate", "ind", 4) and by_id(rows)["zsm too"][1] == "ind"
    assert by_id(rows)["fil eng"] == ("exact_duplicate", "eng eng", 2)  # the same text, whatever it is called


def test_near_duplicates_are_transitive(tmp_path: Path) -> None:
    words = long_text("ind", 0, 8).split()
    chain = [" ".join(words[i : i + 200]) for i in range(0, 200, 8)]
    bands = [MinHash(14, 8).bands(shingles(text, "ind", 5)) for text in chain]
    assert not (bands[0] == bands[-1]).any() and all((one == two).any() for one, two in pairwise(bands))
    ids = [f"{i:02}" for i in random.Random(0).sample(range(len(chain)), len(chain))]
    rows = by_id(resolved([signed(tmp_path, "chain", "ind", list(zip(ids, chain, strict=True)))]))
    assert {row[1:] for row in rows.values()} == {("00", len(chain))}
    assert [name for name, row in rows.items() if row[0] == "keep"] == ["00"]


def test_texts_without_a_shingle_are_duplicates_only_when_equal(tmp_path: Path) -> None:
    documents = [("a", ""), ("b", "satu dua"), ("c", "Satu dua."), ("d", "tiga dua"), ("e", "..."), ("f", "***"), ("g", "")]
    rows = by_id(resolved([signed(tmp_path, "short", "ind", documents)]))
    assert {name for name, row in rows.items() if row[0] == "keep"} == {"a", "b", "d", "e", "f"}
    assert rows["c"] == ("exact_duplicate", "b", 2) and rows["g"] == ("exact_duplicate", "a", 2)


@pytest.mark.parametrize("exact", [True, False])
def test_a_document_read_twice_is_one(exact: bool, tmp_path: Path) -> None:
    text, other, given_ = long_text("lao"), long_text("lao", 8), Deduplication(exact=exact, near=False)
    first = signed(tmp_path, "x", "lao", [("a", text), ("b", text), ("c", other), ("d", other)], given_)
    second = signed(tmp_path, "y", "lao", [("d", text), ("c", other), ("b", text)], given_)
    rows = resolved([second, first], given_)
    found = [(row["id"], row["spool_file"], row["spool_row"], row["verdict"], row["cluster_size"]) for row in rows]
    size = 3 if exact else 1
    repeat = "exact_duplicate" if exact else "keep"
    assert found == [
        ("a", 1, 0, "keep", size), ("b", 0, 2, repeat, size), ("b", 1, 1, "exact_duplicate", size),
        ("c", 0, 1, "keep", size - exact), ("c", 1, 2, "exact_duplicate", size - exact),
        ("d", 0, 0, repeat, size), ("d", 1, 3, repeat, size - exact),
    ]  # fmt: skip


def test_of_equal_ids_the_source_and_the_place_decide(tmp_path: Path) -> None:
    path = tmp_path / "spool.parquet"
    rows = [("web", "b", 1), ("web", "a", 9), ("news", "z", 5), ("web", "a", 2)]
    table = {"id": ["1"] * 4, "source": [r[0] for r in rows], "file": [r[1] for r in rows], "offset": [r[2] for r in rows]}
    pq.write_table(pa.table(table | {"text": ["satu"] * 4}), path)
    write_signatures(path, tmp_path / "a.signatures.parquet", "ind", BOTH)
    found = [
        (row["source"], row["file"], row["offset"], row["verdict"]) for row in resolved([tmp_path / "a.signatures.parquet"])
    ]
    assert found[0] == ("news", "z", 5, "keep")
    assert found[1:] == [("web", *place, "exact_duplicate") for place in (("a", 2), ("a", 9), ("b", 1))]


def test_either_kind_can_be_off(tmp_path: Path) -> None:
    text = long_text("vie")
    documents = [("a", text), ("b", text + "."), ("c", edited(text))]
    for exact, near, kept in ((True, False, "ac"), (False, True, "a"), (False, False, "abc"), (True, True, "a")):
        given = Deduplication(exact=exact, near=near)
        rows = by_id(resolved([signed(tmp_path, "vie", "vie", documents, given)], given))
        assert "".join(name for name, row in rows.items() if row[0] == "keep") == kept
        assert (rows["b"][0] == "exact_duplicate") == exact


def test_other_bands_find_other_pairs(tmp_path: Path) -> None:
    given = Deduplication(ngram=2, buckets=3, hashes_per_bucket=2)
    documents = [("a", long_text("fil")), ("b", edited(long_text("fil"), 0.2)), ("c", long_text("fil", 12))]
    for settings_, verdict in ((BOTH, "keep"), (given, "near_duplicate")):
        rows = by_id(resolved([signed(tmp_path, "fil", "fil", documents, settings_)], settings_))
        assert (rows["b"][0], rows["c"][0]) == (verdict, "keep")


POOL: list[tuple[str, str, str]] = [
    (f"{i:02}", "ind" if i % 3 else "zsm", text)
    for i, text in enumerate(edited(long_text("ind", 3 * j, 3), share) for j in range(4) for share in (0, 0, 0.03, 0.08, 0.4))
]
"""Id, language and text; the last document is there twice."""
POOL.append(POOL[-1])


Partition = dict[tuple[int, str], list[Doc]]
"""Number and language of a file to its documents."""


def verdicts_of(partition: Partition, threads: int = 1) -> pa.Table:
    """Without the rows' places in the files."""
    with TemporaryDirectory() as folder:
        paths = [signed(Path(folder), f"{part}-{code}", code, documents) for (part, code), documents in partition.items()]
        resolved(paths, threads=threads)
        table = pq.read_table(Path(folder, "verdicts.parquet")).drop_columns(["spool_file", "spool_row"])
        return table.sort_by([(name, "ascending") for name in (*PLACE, "verdict")])


@cache
def expected_verdicts() -> pa.Table:
    whole: Partition = {(0, code): [(name, text) for name, own, text in POOL if own == code] for code in ("ind", "zsm")}
    table = verdicts_of(whole)
    assert set(table["verdict"].to_pylist()) == {"keep", "exact_duplicate", "near_duplicate"} and len(table) == len(POOL)
    return table


@settings(max_examples=6, deadline=None)
@given(
    st.permutations(range(len(POOL))), st.lists(st.integers(0, 1), min_size=len(POOL), max_size=len(POOL)), st.integers(1, 2)
)
def test_order_files_and_threads_change_nothing(order: list[int], parts: list[int], threads: int) -> None:
    partition: Partition = {}
    for place, part in zip(order, parts, strict=True):
        name, language, text = POOL[place]
        partition.setdefault((part, language), []).append((name, text))
    assert verdicts_of(partition, threads).equals(expected_verdicts())


def test_no_document_is_no_failure(tmp_path: Path) -> None:
    assert resolved([signed(tmp_path, "none", "tha", [])]) == []
    assert pq.read_schema(tmp_path / "verdicts.parquet").equals(VERDICTS)


def test_files_are_named_each_once(tmp_path: Path) -> None:
    path = signed(tmp_path, "a", "tha", [])
    for paths in ([], [path, path]):
        with pytest.raises(ValueError, match="each once"):
            resolve(paths, tmp_path / "out", BOTH, temp=tmp_path / "temp")


@pytest.mark.parametrize("damage", ["cut", "garbage", "missing", "pages", "settings", "exact"])
def test_a_file_that_is_no_signatures_is_named(damage: str, tmp_path: Path) -> None:
    good, bad = (signed(tmp_path, name, "tha", [(f"{i:032x}", str(i) * 40) for i in range(500)]) for name in ("good", "bad"))
    content = bad.read_bytes()
    if damage == "cut":
        bad.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        bad.write_bytes(b"PAR1 but no more")
    elif damage == "missing":
        bad.unlink()
    elif damage == "pages":
        bad.write_bytes(content[:200] + bytes(len(content) // 3) + content[200 + len(content) // 3 :])
    else:
        other = Deduplication(ngram=4) if damage == "settings" else Deduplication(near=False)
        bad = signed(tmp_path, "bad", "tha", [], other)
    with pytest.raises(CorruptInput, match=r"bad\.signatures\.parquet: "):
        resolve([good, bad], tmp_path / "out", BOTH, temp=tmp_path / "temp")


@pytest.mark.parametrize("rows", [{"id": ["a"], "text": ["x"]}, {"text": [None]}, None])
def test_a_spool_that_is_none_is_named(rows: dict[str, list[str | None]] | None, tmp_path: Path) -> None:
    spool = tmp_path / "spool.parquet"
    if rows is None:
        spool.write_bytes(b"no parquet")
    else:
        complete = {"id": ["a"], "source": ["web"], "file": ["x"], "offset": [0]} if "id" not in rows else {}
        pq.write_table(pa.table(complete | rows), spool)
    with pytest.raises(CorruptInput, match=r"spool\.parquet: "):
        write_signatures(spool, tmp_path / "out", "tha", BOTH)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_not_called_corrupt_input(tmp_path: Path) -> None:
    spool = tmp_path / "spool.parquet"
    pq.write_table(pa.table({"id": ["a"], "source": ["web"], "file": ["x"], "offset": [0], "text": ["x"]}), spool)
    with pytest.raises(OSError) as raised:
        write_signatures(spool, Path("/dev/full"), "tha", BOTH)
    assert raised.value.errno == errno.ENOSPC


def test_how_many_clusters_are_judged_at_once_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = many_signatures(tmp_path, 3_000)
    resolve(paths, tmp_path / "once", BOTH, temp=tmp_path / "temp")
    monkeypatch.setattr(dedup, "MEMBERS_AT_ONCE", 50)
    resolve(paths, tmp_path / "parts", BOTH, temp=tmp_path / "temp")
    assert (tmp_path / "once").read_bytes() == (tmp_path / "parts").read_bytes()


MEASURED = """
import re, sys
from pathlib import Path
from sea_lion.data.dedup import resolve
from sea_lion.data.recipe import Deduplication

def kilobytes(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

*paths, out, limit = sys.argv[1:]
before = kilobytes("VmRSS")
resolve([Path(path) for path in paths], Path(out), Deduplication(), memory_limit=limit, temp=Path(out).parent / "temp")
print((kilobytes("VmHWM") - before) // 1000)
"""


def many_signatures(folder: Path, count: int, parts: int = 3) -> list[Path]:
    """Files of random signatures: one in ten has the text of another, one in ten a band."""
    schema = pq.read_schema(signed(folder, "schema", "tha", []))
    generator, paths = np.random.default_rng(0), []
    for part in range(parts):
        size = count // parts
        digests, band = generator.integers(0, 10 * count, (2, size))
        columns = [pa.array([generator.bytes(16).hex() for _ in range(size)]), pa.array(["web"] * size), pa.array(["x"] * size)]
        columns += [pa.array(np.arange(size)), pa.array([b"%016d" % number for number in digests], pa.binary(16))]
        columns += [pa.array(band.astype(np.uint64))] + [
            pa.array(generator.integers(0, 1 << 64, size, np.uint64)) for _ in range(13)
        ]
        paths.append(folder / f"many-{part}.parquet")
        pq.write_table(pa.table(columns, schema=schema), paths[-1])
    return paths


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own account of memory")
def test_the_memory_limit_is_held_and_changes_nothing(tmp_path: Path) -> None:
    paths = many_signatures(tmp_path, 200_000)
    command = [sys.executable, "-c", MEASURED, *map(str, paths), str(tmp_path / "bounded"), "60MB"]
    growth = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    resolve(paths, tmp_path / "free", BOTH, memory_limit="1GB", temp=tmp_path / "temp", threads=2)
    assert (tmp_path / "bounded").read_bytes() == (tmp_path / "free").read_bytes()
    assert growth < 60 + 170  # the limit, DuckDB's code (70), and the batches that are written
    with pytest.raises(duckdb.OutOfMemoryException):
        resolve(paths, tmp_path / "none", BOTH, memory_limit="5MB", temp=tmp_path / "temp")
